"""Start a variant from the weights of another model: converted tensors and their options."""

from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class ConvertedTensor:
    """Initial values of a parameter made from a checkpoint, and how they were made."""

    values: Tensor
    origin: str = "loaded"


def conversion(default: T) -> T:
    """Return the default of an option that only acts when a run starts from a checkpoint."""
    option: T = field(default=default, metadata={"conversion": True})
    return option
