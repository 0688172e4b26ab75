"""Hybrid sharding: sharded within groups, replicated across them (Zhao et al. 2023, 3.2.2).

Parameters are gathered only within a group, for example the GPUs of one node; gradients are reduced
once a step across the groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from variants.base import ModelShape, Precision, StepShape
from variants.communication import sent_bytes
from variants.parallelism._sharding import FSDPBase, padded_size
from variants.validation import Processes, at_least_one, divides


@dataclass(frozen=True)
class HybridShardOptions:
    """The number of processes, and the number of groups, each of which holds everything once."""

    nproc: Processes = 4
    replicas: int = 2


class HybridShard(FSDPBase[HybridShardOptions]):
    """FSDP2 on a mesh of `replicas` x (nproc / replicas) processes; neighbours form a group."""

    Options = HybridShardOptions
    title = "HSDP ×{nproc}"

    @classmethod
    def check(cls, shape: ModelShape, options: HybridShardOptions) -> Mapping[str, str]:
        """There must be at least 2 groups of at least 2 processes."""
        problems = at_least_one("nproc", options.nproc)
        if problems:
            return problems
        problems = divides("replicas", options.replicas, "nproc", options.nproc)
        if not problems and options.replicas in (1, options.nproc):
            key = "nproc" if options.nproc < 4 else "replicas"
            reason = (
                "needs at least 2 groups of at least 2 processes; use fsdp for one group, "
                "ddp for groups of one"
            )
            problems[key] = f"{getattr(options, key)}: {reason}"
        return problems

    @property
    def n_shards(self) -> int:
        """Return the number of processes in a group."""
        return self.world_size // self.options.replicas

    def wrap(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Shard within each group."""
        size = (self.options.replicas, self.n_shards)
        mesh = init_device_mesh(device.type, size, mesh_dim_names=("replicate", "shard"))
        return self.shard(model, mesh, device, precision)

    def predicted_bytes_sent(self, model: nn.Module, step: StepShape) -> float | None:
        """As fsdp within a group, and an all-reduce of each gradient's shard across the groups."""
        within = super().predicted_bytes_sent(model, step)
        if within is None:
            return None
        shard_bytes = 4 * padded_size(model.parameters(), self.n_shards) / self.n_shards
        return within + sent_bytes("all_reduce", shard_bytes, self.options.replicas)
