"""Fully sharded data parallel: parameters, gradients and optimizer state divided over the ranks (Zhao et al. 2023)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from variants.base import ModelShape, Precision
from variants.parallelism._sharding import FSDPBase
from variants.validation import at_least_one


class FullySharded(FSDPBase):
    """FSDP2: ZeRO-3 (Rajbhandari et al. 2020), or, with `reshard = false`, ZeRO-2."""

    @dataclass(frozen=True)
    class Options:
        """Parameters: the number of processes, what is made whole together, for how long, and where shards lie.

        `wrap` is each block, or each smallest part of a block with at least { min_params = N } parameters, not counting
        those of such parts within it. With `reshard` a unit is whole only while it computes, without it from its
        forward pass to its backward pass. With `cpu_offload` shards and optimizer lie on the CPU.
        """

        nproc: int = 2
        wrap: Literal["block"] | dict[str, int] = "block"
        reshard: bool = True
        cpu_offload: bool = False

    @classmethod
    def check(cls, shape: ModelShape, options: Any) -> Mapping[str, str]:
        """At least one process; units have a size."""
        problems = at_least_one("nproc", options.nproc)
        if options.wrap != "block" and (
            options.wrap.keys() != {"min_params"} or options.wrap["min_params"] < 1
        ):
            problems["wrap"] = (
                f"{options.wrap}: must be 'block' or {{ min_params = N }}, N at least 1"
            )
        return problems

    def wrap(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Shard over all processes."""
        return self.shard(
            model, init_device_mesh(device.type, (self.world_size,)), device, precision
        )
