"""The private PyTorch API that this package and the probes use, in one place.

PyTorch has no public equivalent for: the layout of a `DTensor` shard, a tensor that describes
several ranges of a checkpoint, the identity of a storage without memory, the process group that an
operator names, a mode that sees every dispatched operator, and the time that a thread waits for
collectives.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, UntypedStorage
from torch._ops import OpOverload
from torch.distributed import _functional_collectives as functional_collectives
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata
from torch.distributed.tensor import DTensor
from torch.utils import _python_dispatch

__all__ = [
    "DispatchMode",
    "OpOverload",
    "local_chunk",
    "observe_waits",
    "process_group_size",
    "storage_id",
    "storageless",
]

TensorT = TypeVar("TensorT", bound=Tensor)
ResultT = TypeVar("ResultT")
P = ParamSpec("P")


class DispatchMode(_python_dispatch.TorchDispatchMode):
    """A mode whose `__torch_dispatch__` sees every operator that PyTorch dispatches in its body."""

    def __init__(self) -> None:
        initialize: Callable[[], None] = super().__init__  # has no annotations
        initialize()


def local_chunk(value: DTensor) -> ChunkStorageMetadata:
    """Return offsets and sizes of this rank's shard within the whole tensor."""
    untyped: Any = value
    chunks: list[ChunkStorageMetadata] = untyped.__create_chunk_list__()
    (chunk,) = chunks
    return chunk


def storageless(cls: type[TensorT], size: torch.Size, like: Tensor) -> TensorT:
    """Return a tensor of a subclass with this size, dtype and device of `like`, and no memory."""
    made: TensorT = Tensor._make_wrapper_subclass(cls, size, dtype=like.dtype, device=like.device)
    return made


def storage_id(storage: UntypedStorage) -> int:
    """Return a number that identifies a storage; its data pointer is 0 on the meta device."""
    return int(storage._cdata)


def process_group_size(name: str) -> int:
    """Return the size of the process group that functional collectives know by this name."""
    resolve: Any = dist.distributed_c10d._resolve_process_group  # type: ignore[attr-defined]
    return int(resolve(name).size())


@contextmanager
def observe_waits(scope: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Enter `scope` around every wait of a thread for a collective.

    Replaces `Work.wait` and `wait_tensor`, through which FSDP2, DTensor and `torch.distributed`
    wait, for the duration of the body. PyTorch offers no hook for waits, and its profiler slows
    down the step that is to be timed.
    """

    def observed(wait: Callable[P, ResultT]) -> Callable[P, ResultT]:
        def observed_wait(*args: P.args, **kwargs: P.kwargs) -> ResultT:
            with scope():
                return wait(*args, **kwargs)

        return observed_wait

    work_wait = vars(dist.Work)["wait"]  # not `Work.wait`: that is unbound, and would stay so
    wait_tensor = functional_collectives.wait_tensor
    dist.Work.wait = observed(dist.Work.wait)  # type: ignore[method-assign]
    functional_collectives.wait_tensor = observed(wait_tensor)
    try:
        yield
    finally:
        dist.Work.wait = work_wait  # type: ignore[method-assign]
        functional_collectives.wait_tensor = wait_tensor
