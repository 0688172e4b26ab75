"""Whole parameters from their shards, for updates that are not elementwise."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from variants.communication import sent_bytes
from variants.parameters import FP32_BYTES, TrainedParameter
from variants.tensor_parallel import ShardSpec


def gather(value: Tensor, shard: ShardSpec | None) -> Tensor:
    """Return the whole tensor of which `value` is this rank's part; all ranks call this.

    The result is the same on all ranks. Without shards it is `value` itself.
    """
    part = value.full_tensor() if isinstance(value, DTensor) else value
    if shard is None:
        return part
    whole = part.new_zeros(shard.size)
    sizes = [stop - start for start, stop in shard.ranges]
    for (start, stop), rows in zip(shard.ranges, part.split(sizes, shard.dim), strict=True):
        whole.narrow(shard.dim, start, stop - start).copy_(rows)
    dist.all_reduce(whole, group=shard.group)  # a sum with zeros: each range has one owner
    return whole


def local_part(whole: Tensor, parameter: TrainedParameter) -> Tensor:
    """Return this rank's part of a whole tensor that has the shape of a parameter."""
    shard = parameter.shard
    part = whole
    if shard is not None:
        ranges = [whole.narrow(shard.dim, start, stop - start) for start, stop in shard.ranges]
        part = torch.cat(ranges, shard.dim)
    value = parameter.value
    if not isinstance(value, DTensor):
        return part
    mesh = value.device_mesh
    replicated = DTensor.from_local(part, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(placements=value.placements).to_local()


def gather_bytes(parameter: TrainedParameter) -> float:
    """Return the bytes that a rank sends to gather an fp32 tensor of the parameter's shape.

    Shards of rows are padded to equal size.
    """
    n_bytes = 0.0
    value = parameter.value
    if isinstance(value, DTensor):
        n_shards = 1
        for size, placement in zip(value.device_mesh.shape, value.placements, strict=True):
            n_shards *= size if isinstance(placement, Shard) else 1
        if value.ndim:
            n_rows = -(-value.shape[0] // n_shards) * n_shards
            payload = FP32_BYTES * n_rows * value.shape[1:].numel()
            n_bytes += sent_bytes("all_gather", payload, n_shards)
    if parameter.shard is not None and parameter.shard.group is not None:
        payload = FP32_BYTES * parameter.info.size.numel()
        n_bytes += sent_bytes("all_reduce", payload, parameter.shard.group.size())
    return n_bytes
