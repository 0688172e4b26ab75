"""Fully sharded data parallel: parameters, gradients and optimizer state divided over the ranks (Zhao et al. 2023)."""

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from variants.api import Parallelism, Precision, Shape, at_least_one


class FullyShardedDataParallel(Parallelism):
    """FSDP2: `fully_shard` on each block and at the root; a block's parameters are whole only while it computes."""

    @dataclass(frozen=True)
    class Options:
        """Parameters: the number of processes."""

        nproc: int = 2

    @classmethod
    def check(cls, shape: Shape, options: Any) -> Mapping[str, str]:
        """At least one process."""
        return at_least_one("nproc", options.nproc)

    def wrap(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Shard; with bf16, parameters travel as bf16 and gradients are still summed in fp32."""
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if precision == "bf16" else None, reduce_dtype=torch.float32
        )
        mesh = init_device_mesh(device.type, (self.nproc,))
        for block in model.get_submodule("h").children():
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
        return model.to_empty(device=device)

    @contextlib.contextmanager
    def _accumulate(self, model: FSDPModule, last: bool) -> Iterator[None]:
        model.set_requires_gradient_sync(last)
        model.set_is_last_backward(last)
        yield

    def accumulate(self, model: nn.Module, last: bool) -> AbstractContextManager[object]:
        """Keep whole gradients until the last micro-batch; only then sum and shard them."""
        assert isinstance(model, FSDPModule)
        return self._accumulate(model, last)

    def shares(self) -> Mapping[str, float]:
        """Each rank holds one part of everything."""
        return dict.fromkeys(("parameters", "gradients", "optimizer"), 1 / self.nproc)
