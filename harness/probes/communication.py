"""Communication of a step: calls and bytes of each collective, counted at dispatch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from harness.distributed.torch_internals import (
    DispatchMode,
    OpOverload,
    process_group_size,
)
from harness.results.records import CollectiveTraffic
from variants.communication import BANDWIDTH_FACTORS, sent_bytes

# Operator: its collective, and the position of the argument that is (or contains) the buffer. DDP's
# reducer, FSDP2 and `torch.distributed` call the operators of c10d, DTensor those of
# _c10d_functional.
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
NAMESPACES = ("c10d", "_c10d_functional")
SILENT = {  # operators that send nothing, or whose counterpart on another rank is counted
    "c10d::barrier",
    "c10d::monitored_barrier_",
    "c10d::recv_",
    "c10d::recv_any_source_",
    "_c10d_functional::wait_tensor",
    "_c10d_functional::_wrap_tensor_autograd",
}


@dataclass
class _Totals:
    calls: int = 0
    payload_bytes: int = 0
    sent_bytes: float = 0.0


class CommunicationCounter(DispatchMode):
    """Count the collectives of an uncompiled, untimed step, as a context manager.

    The payload of a collective is the bytes of its whole buffers: what is reduced, scattered or
    broadcast, or the result of an all-gather. `variants.communication` gives the bytes that a rank
    sends of it. An unknown operator is counted under its own name, as if it sent all its arguments.
    """

    def __init__(self) -> None:
        super().__init__()
        self._totals: dict[str, _Totals] = {}

    def traffic(self) -> dict[str, CollectiveTraffic]:
        """Return calls and bytes of each collective."""
        return {
            collective: CollectiveTraffic(
                calls=totals.calls,
                payload_bytes=totals.payload_bytes,
                sent_bytes=totals.sent_bytes,
            )
            for collective, totals in self._totals.items()
        }

    def __torch_dispatch__(
        self,
        func: OpOverload[..., object],
        types: Iterable[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if any(issubclass(tensor_type, DTensor) for tensor_type in types):
            return NotImplemented  # DTensor dispatches it again, on local tensors
        name, _, _ = func.name().partition(".")
        if name in OPERATORS or (func.namespace in NAMESPACES and name not in SILENT):
            self._count(name, [*args, *(kwargs or {}).values()])
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, arguments: list[object]) -> None:
        collective, position = OPERATORS.get(name, (name, None))
        buffer = arguments if position is None else arguments[position]
        payload_bytes = sum(tensor.nbytes for tensor in _tensors(buffer))
        group_size = _group_size(arguments)
        if collective == "all_gather" and name.startswith("_c10d_functional"):
            payload_bytes *= group_size  # the functional operator takes the local part
        totals = self._totals.setdefault(collective, _Totals())
        totals.calls += 1
        totals.payload_bytes += payload_bytes
        if collective in BANDWIDTH_FACTORS:
            totals.sent_bytes += sent_bytes(collective, payload_bytes, group_size)
        else:
            totals.sent_bytes += payload_bytes


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _group_size(arguments: list[object]) -> int:
    """Return the size of the group among an operator's arguments, by default the world size."""
    for value in reversed(arguments):
        if isinstance(value, str):  # the group's name follows that of the reduction
            return process_group_size(value)
        if isinstance(value, torch.ScriptObject):
            try:
                return int(dist.ProcessGroup.unbox(value).size())
            except RuntimeError:
                continue  # the reduction
    return dist.get_world_size()
