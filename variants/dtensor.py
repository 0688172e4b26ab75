"""Distributed tensors, of which each rank holds a part."""

from torch import Tensor
from torch.distributed.tensor import DTensor


def local(value: Tensor) -> Tensor:
    """Return the part of a tensor on this rank, sharing its memory."""
    return value.to_local() if isinstance(value, DTensor) else value
