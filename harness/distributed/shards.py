"""Shards of parameters: which slice of each a rank holds, and how to assemble the whole."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from harness.distributed.process_group import DistributedContext
from harness.distributed.torch_internals import local_chunk, storageless
from variants.base import LanguageModel, Part
from variants.dtensor import local
from variants.tensor_parallel import ShardSpec

BATCH_BYTES = 64 << 20  # of parameters whose shards are gathered at once
Slices = tuple[slice, ...]
LocalShard = list[tuple[Slices, np.ndarray]]  # slices of the whole parameter, and the values there


def shard_specs(model: nn.Module) -> dict[str, ShardSpec]:
    """Return, by parameter name, how the parameters that tensor parallelism divides are sharded."""
    specs = {}
    for path, module in model.named_modules():
        if isinstance(module, Part | LanguageModel):
            for name, spec in module.shards.items():
                specs[f"{path}.{name}".lstrip(".")] = spec
    return specs


def global_shape(value: Tensor, spec: ShardSpec | None) -> torch.Size:
    """Return the shape of the whole parameter or optimizer state that `value` is a shard of."""
    return value.shape if spec is None else spec.size


def is_sharded(value: Tensor, spec: ShardSpec | None) -> bool:
    """Return whether this rank holds only a part of the parameter."""
    return spec is not None or isinstance(value, DTensor)


def shard_slices(value: Tensor, spec: ShardSpec | None) -> list[tuple[Slices, Slices]]:
    """Return for each contiguous range on this rank its local slices and its slices of the whole.

    A `DTensor` is a range of rows: of the whole, or, with a `spec`, of the rank's tensor-parallel
    shard, which consists of one or more ranges of the whole.
    """
    sizes = tuple(value.shape)
    offsets = (0,) * value.ndim
    if isinstance(value, DTensor):
        chunk = local_chunk(value)
        sizes = tuple(chunk.sizes)
        offsets = tuple(chunk.offsets)
    inner = tuple(slice(0, n) for n in sizes)
    outer = tuple(slice(start, start + n) for start, n in zip(offsets, sizes, strict=True))
    if spec is None:
        return [(inner, outer)]
    dim = spec.dim
    ranges = []
    range_start = 0  # of the current range, within the tensor-parallel shard
    for start, stop in spec.ranges:
        range_stop = range_start + stop - start
        low = max(range_start, outer[dim].start)
        high = min(range_stop, outer[dim].stop)
        if low < high:
            inner_range = slice(low - outer[dim].start, high - outer[dim].start)
            outer_range = slice(low - range_start + start, high - range_start + start)
            ranges.append((_replace(inner, dim, inner_range), _replace(outer, dim, outer_range)))
        range_start = range_stop
    return ranges


def _replace(slices: Slices, dim: int, value: slice) -> Slices:
    return (*slices[:dim], value, *slices[dim + 1 :])


def copy_local_shard(value: Tensor, whole: Tensor, spec: ShardSpec | None) -> None:
    """Copy this rank's shard of `whole` into a parameter."""
    for inner, outer in shard_slices(value, spec):
        local(value)[inner] = whole[outer].to(value.device, value.dtype)


def gather_shards(
    values: Mapping[str, Tensor], specs: Mapping[str, ShardSpec], context: DistributedContext
) -> Iterator[tuple[str, Tensor, list[LocalShard]]]:
    """Yield name, local value and the shards of all ranks for each sharded parameter.

    `values` are the parameters as this rank stores them, by name, `specs` those of `shard_specs`.

    Shards are gathered in batches, because a small model's ranks would otherwise spend most of the
    time waiting for each other, and as NumPy arrays, which pickle ten times faster than tensors.
    """
    sharded = {}
    for name, value in values.items():
        if is_sharded(value, specs.get(name)):
            sharded[name] = value
    batch: dict[str, LocalShard] = {}
    n_bytes = 0
    for i, (name, value) in enumerate(sharded.items(), start=1):
        batch[name] = _local_shard(value, specs.get(name))
        n_bytes += value.nbytes
        if n_bytes >= BATCH_BYTES or i == len(sharded):
            by_rank = context.gather(batch)
            for gathered_name in batch:
                shards = [batch_of_rank[gathered_name] for batch_of_rank in by_rank]
                yield gathered_name, sharded[gathered_name], shards
            batch = {}
            n_bytes = 0


def _local_shard(value: Tensor, spec: ShardSpec | None) -> LocalShard:
    slices = shard_slices(value, spec)
    return [(outer, local(value)[inner].cpu().numpy()) for inner, outer in slices]


def assemble(value: Tensor, spec: ShardSpec | None, shards: list[LocalShard]) -> Tensor:
    """Return the whole parameter on the CPU, from the shards of all ranks."""
    whole = torch.empty(global_shape(value, spec), dtype=value.dtype)
    for shard in shards:
        for outer, values in shard:
            whole[outer] = torch.from_numpy(values)
    return whole


def shard_matches(whole: Tensor, shard: LocalShard) -> bool:
    """Return whether a rank's shard equals its slices of `whole`; ranks may hold the same slice."""
    return all(torch.equal(whole[outer], torch.from_numpy(values)) for outer, values in shard)


def gather_weights(
    values: Mapping[str, Tensor], specs: Mapping[str, ShardSpec], context: DistributedContext
) -> dict[str, Tensor]:
    """Return all whole weights, on the CPU, on rank 0, and an empty dict on the other ranks.

    Those that are whole and on the CPU on rank 0 are not copied. See `gather_shards`.
    """
    assembled = {}
    for name, value, shards in gather_shards(values, specs, context):
        if context.is_first:
            assembled[name] = assemble(value, specs.get(name), shards)
    if not context.is_first:
        return {}
    weights = {}
    for name, value in values.items():
        weights[name] = assembled[name] if name in assembled else value.cpu()
    return weights


def named_local_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of each parameter as this rank stores it.

    FSDP is asked to reshard first: after an evaluation it leaves some parameters whole, in the
    compute precision.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    return ((name, parameter.detach()) for name, parameter in model.named_parameters())


class MultiRangeTensor(Tensor):
    """A parameter of which this rank holds several ranges, for `torch.distributed.checkpoint`.

    It has the whole's size and no memory. `torch.distributed.checkpoint` (DCP) writes and reads its
    ranges through the three methods with dunder names, the protocol that `DTensor` implements too;
    no public tensor type can describe several ranges of one dimension.
    """

    value: Tensor
    ranges: dict[
        torch.Size, tuple[Slices, torch.Size]
    ]  # by offsets in the whole: local slices and size

    @staticmethod
    def __new__(cls, value: Tensor, spec: ShardSpec) -> "MultiRangeTensor":
        """Describe the ranges of this rank."""
        made = storageless(cls, spec.size, value)
        made.value = value.detach()
        made.ranges = {}
        for inner, outer in shard_slices(made.value, spec):
            offsets = torch.Size(part.start for part in outer)
            sizes = torch.Size(part.stop - part.start for part in outer)
            made.ranges[offsets] = (inner, sizes)
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: object, *_: object, **__: object
    ) -> object:
        """Reject every operation."""
        raise NotImplementedError(f"{func}: not defined for a tensor sharded over several ranks")

    def __create_write_items__(self, fqn: str, _: object) -> list[WriteItem]:
        """Return one item to write per range."""
        properties = TensorProperties.create_from_tensor(self.value)
        items = []
        for chunk in self.__create_chunk_list__():
            data = TensorWriteData(chunk=chunk, properties=properties, size=self.size())
            index = MetadataIndex(fqn, chunk.offsets)
            items.append(WriteItem(index=index, type=WriteItemType.SHARD, tensor_data=data))
        return items

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        """Return offsets and sizes of each range within the whole."""
        return [
            ChunkStorageMetadata(offsets=offsets, sizes=sizes)
            for offsets, (_, sizes) in self.ranges.items()
        ]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        """Return the memory of one range."""
        assert index.offset is not None
        inner, _ = self.ranges[index.offset]
        return local(self.value)[inner]


def to_dcp_state(
    state: Mapping[str, Any], specs: Mapping[str, ShardSpec], name: str = ""
) -> dict[str, Any]:
    """Return a state dict whose tensor-parallel shards are `MultiRangeTensor`s.

    `specs` are by parameter name.
    """
    converted: dict[str, Any] = {}
    for key, value in state.items():
        spec = specs.get(key) or specs.get(name)
        if isinstance(value, Mapping):
            converted[key] = to_dcp_state(value, specs, key)
        elif spec is not None and isinstance(value, Tensor) and value.ndim == len(spec.size):
            converted[key] = MultiRangeTensor(value, spec)
        else:
            converted[key] = value
    return converted
