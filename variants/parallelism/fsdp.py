"""Fully sharded data parallel: parameters, gradients and optimizer state (Zhao et al. 2023)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from variants.base import ModelShape, Precision
from variants.parallelism._sharding import FSDPBase
from variants.validation import Processes, at_least_one


@dataclass(frozen=True)
class FSDPOptions:
    """The number of processes, the units, when they are resharded, and where shards are stored.

    `wrap` is each block, or each smallest part of a block with at least { min_params = N }
    parameters, not counting those of other units within it. With `reshard` a unit is gathered only
    while it computes; without it, from its forward to its backward pass. With `cpu_offload`, shards
    and optimizer state are in CPU memory.
    """

    nproc: Processes = 2
    wrap: Literal["block"] | dict[str, int] = "block"
    reshard: bool = True
    cpu_offload: bool = False


class FullySharded(FSDPBase[FSDPOptions]):
    """FSDP2: ZeRO-3 (Rajbhandari et al. 2020), or ZeRO-2 with `reshard = false`."""

    Options = FSDPOptions
    title = "FSDP ×{nproc}"

    def __init__(self, options: FSDPOptions) -> None:
        super().__init__(options)
        if isinstance(options.wrap, dict):
            self.min_unit_params = options.wrap["min_params"]
        self.reshard_after_forward = options.reshard
        self.cpu_offload = options.cpu_offload

    @classmethod
    def check(cls, shape: ModelShape, options: FSDPOptions) -> Mapping[str, str]:
        """`nproc` and `min_params` must be positive."""
        problems = at_least_one("nproc", options.nproc)
        if isinstance(options.wrap, dict):
            if options.wrap.keys() != {"min_params"} or options.wrap["min_params"] < 1:
                reason = "must be 'block' or { min_params = N }, N at least 1"
                problems["wrap"] = f"{options.wrap}: {reason}"
        return problems

    def wrap(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Shard over all processes."""
        mesh = init_device_mesh(device.type, (self.world_size,))
        return self.shard(model, mesh, device, precision)
