"""Start a variant from the weights of another model: the converted tensors, and options that control the conversion."""

from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class ConvertedTensor:
    """The initial values of a parameter that were made from a checkpoint, and how they were made."""

    values: Tensor
    origin: str = "loaded"


def conversion(default: T) -> T:
    """Return the default of a dataclass field that only acts when a run starts from a checkpoint."""
    option: T = field(default=default, metadata={"conversion": True})
    return option
