"""What the ranks tell each other in a step: calls and bytes of each collective, seen where PyTorch dispatches them."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from variants.communication import BANDWIDTH_FACTORS, sent_bytes

# The collective that an operator is, and the argument that holds (or names) its whole buffer. DDP's reducer, FSDP2 and
# `torch.distributed`'s functions call those of c10d, DTensor those of _c10d_functional.
OPERATORS = {
    "c10d::allreduce_": ("all_reduce", 0),
    "c10d::allreduce_coalesced_": ("all_reduce", 0),
    "c10d::allgather_": ("all_gather", 0),
    "c10d::_allgather_base_": ("all_gather", 0),
    "c10d::allgather_coalesced_": ("all_gather", 0),
    "c10d::allgather_into_tensor_coalesced_": ("all_gather", 0),
    "c10d::reduce_scatter_": ("reduce_scatter", 1),
    "c10d::_reduce_scatter_base_": ("reduce_scatter", 1),
    "c10d::reduce_scatter_tensor_coalesced_": ("reduce_scatter", 1),
    "c10d::alltoall_": ("all_to_all", 1),
    "c10d::alltoall_base_": ("all_to_all", 1),
    "c10d::broadcast_": ("broadcast", 0),
    "c10d::reduce_": ("reduce", 0),
    "c10d::gather_": ("gather", 0),
    "c10d::scatter_": ("scatter", 1),
    "c10d::send": ("send", 0),
    "_c10d_functional::all_reduce": ("all_reduce", 0),
    "_c10d_functional::all_reduce_": ("all_reduce", 0),
    "_c10d_functional::all_reduce_coalesced": ("all_reduce", 0),
    "_c10d_functional::all_reduce_coalesced_": ("all_reduce", 0),
    "_c10d_functional::all_gather_into_tensor": ("all_gather", 0),
    "_c10d_functional::all_gather_into_tensor_out": ("all_gather", 0),
    "_c10d_functional::all_gather_into_tensor_coalesced": ("all_gather", 0),
    "_c10d_functional::reduce_scatter_tensor": ("reduce_scatter", 0),
    "_c10d_functional::reduce_scatter_tensor_out": ("reduce_scatter", 0),
    "_c10d_functional::reduce_scatter_tensor_coalesced": ("reduce_scatter", 0),
    "_c10d_functional::all_to_all_single": ("all_to_all", 0),
    "_c10d_functional::broadcast": ("broadcast", 0),
    "_c10d_functional::broadcast_": ("broadcast", 0),
}


class Traffic(TorchDispatchMode):
    """`with Traffic() as traffic: ...` round a step that is not timed and not compiled, on every rank.

    Afterwards `calls` has for each collective {`calls`, `payload_bytes`, `sent_bytes`}: how often this rank took part,
    the bytes of the whole buffers (what is reduced, scattered or broadcast; for an all-gather what is put together),
    and what a rank sends of them (`variants.communication`). An operator that is none of the known counts under its
    own name, as if it sent all that it is given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, dict[str, float]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it is taken apart first, and what that calls comes by here
        name = func._schema.name
        if name in OPERATORS or (
            func.namespace in ("c10d", "_c10d_functional") and func._schema.name not in SILENT
        ):
            self._count(name, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, args: Any, kwargs: Any) -> None:
        given = [*args, *kwargs.values()]
        collective, place = OPERATORS.get(name, (name, None))
        payload = sum(
            tensor.nbytes for tensor in _tensors(given if place is None else given[place])
        )
        n = _group_size(given)
        if collective == "all_gather" and name.startswith("_c10d_functional"):
            payload *= n  # the functional one is given its part
        entry = self.calls.setdefault(
            collective, {"calls": 0, "payload_bytes": 0, "sent_bytes": 0.0}
        )
        entry["calls"] += 1
        entry["payload_bytes"] += payload
        entry["sent_bytes"] += (
            sent_bytes(collective, payload, n) if collective in BANDWIDTH_FACTORS else payload
        )


SILENT = {  # these send nothing, or what their counterpart on another rank counts
    "c10d::barrier",
    "c10d::monitored_barrier_",
    "c10d::recv_",
    "c10d::recv_any_source_",
    "_c10d_functional::wait_tensor",
    "_c10d_functional::_wrap_tensor_autograd",
}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _group_size(given: Iterable[Any]) -> int:
    """Return the number of ranks of the group among an operator's arguments; all ranks where none is found."""
    resolve: Any = dist.distributed_c10d._resolve_process_group  # type: ignore[attr-defined]
    for value in reversed(list(given)):
        if isinstance(value, str):  # the group's name comes after that of the reduction
            return int(resolve(value).size())
        if isinstance(value, torch.ScriptObject):
            try:
                return int(dist.ProcessGroup.unbox(value).size())
            except RuntimeError:
                continue  # the reduction
    return dist.get_world_size()
