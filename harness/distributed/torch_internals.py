"""The private PyTorch API that this package and the probes use, in one place.

PyTorch has no public equivalent: of the layout of a `DTensor` shard, of a tensor that stands for several ranges of a
checkpoint, of the identity of a storage without memory, and of the process group that an operator names.
"""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, UntypedStorage
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata
from torch.distributed.tensor import DTensor

TensorT = TypeVar("TensorT", bound=Tensor)


def local_chunk(value: DTensor) -> ChunkStorageMetadata:
    """Return offsets and sizes of this rank's shard within the whole tensor."""
    untyped: Any = value
    chunks: list[ChunkStorageMetadata] = untyped.__create_chunk_list__()
    (chunk,) = chunks
    return chunk


def storageless(cls: type[TensorT], size: torch.Size, like: Tensor) -> TensorT:
    """Return an instance of a tensor subclass with this size, the dtype and device of `like`, and no memory."""
    made: TensorT = Tensor._make_wrapper_subclass(cls, size, dtype=like.dtype, device=like.device)
    return made


def storage_id(storage: UntypedStorage) -> int:
    """Return a number that identifies a storage; the data pointer does not, being 0 on the meta device."""
    return int(storage._cdata)


def process_group_size(name: str) -> int:
    """Return the number of ranks of the process group that functional collectives know by this name."""
    resolve: Any = dist.distributed_c10d._resolve_process_group  # type: ignore[attr-defined]
    return int(resolve(name).size())
