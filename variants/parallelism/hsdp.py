"""HybridShard sharding: sharded within groups of processes, replicated over the groups (Zhao et al. 2023, 3.2.2).

Shards travel within a group alone, say the GPUs of one node, and gradients once a step between the groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from variants.base import ModelShape, Precision, StepShape
from variants.communication import sent_bytes
from variants.parallelism._sharding import FSDPBase, padded
from variants.validation import at_least_one, divides


class HybridShard(FSDPBase):
    """FSDP2 on a mesh of `replicas` x (nproc / replicas) processes; neighbouring ranks are a group."""

    @dataclass(frozen=True)
    class Options:
        """Parameters: the number of processes, and of groups of them that hold everything once."""

        nproc: int = 4
        replicas: int = 2

    @classmethod
    def check(cls, shape: ModelShape, options: Any) -> Mapping[str, str]:
        """Two groups of two processes at least."""
        problems = at_least_one("nproc", options.nproc) or divides(
            "replicas", options.replicas, "nproc", options.nproc
        )
        if not problems and (options.replicas == 1 or options.replicas == options.nproc):
            key = "nproc" if options.nproc < 4 else "replicas"
            told = "no two groups of two at least; one group is fsdp, groups of one are ddp"
            problems[key] = f"{getattr(options, key)}: {told}"
        return problems

    @property
    def n_shards(self) -> int:
        """Return the number of processes in a group."""
        return int(self.world_size // self.options.replicas)

    def wrap(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Shard within each group."""
        size = (self.options.replicas, self.n_shards)
        mesh = init_device_mesh(device.type, size, mesh_dim_names=("replicate", "shard"))
        return self.shard(model, mesh, device, precision)

    def predicted_bytes_sent(self, model: nn.Module, step: StepShape) -> float | None:
        """As within a group, and an all-reduce of each gradient's shard between the groups."""
        within, shard = (
            super().predicted_bytes_sent(model, step),
            4 * padded(model.parameters(), self.n_shards) / self.n_shards,
        )
        return (
            None
            if within is None
            else within + sent_bytes("all_reduce", shard, self.options.replicas)
        )
