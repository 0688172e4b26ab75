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

from variants.api import Parallelism, Precision, Shape, StepShape, at_least_one
from variants.traffic import sent_bytes


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
        model.register_forward_hook(_shard_again)
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

    def traffic(self, model: nn.Module, step: StepShape) -> float:
        """Each micro-batch gathers a block twice, for forward and backward; the last one reduces gradients, in fp32.

        What belongs to the root is gathered once, as it stays whole from forward to backward (Rajbhandari et al. 2020,
        7.2, has 3 of the parameters' size for all). Parameters are padded to shards of equal rows.
        """
        whole = _padded(model, self.nproc)
        blocks = _padded(model.get_submodule("h"), self.nproc)
        gathered = step.n_micro_batches * (whole + blocks) * (2 if step.precision == "bf16" else 4)
        return sent_bytes("all_gather", gathered, self.nproc) + sent_bytes("reduce_scatter", 4 * whole, self.nproc)


def _shard_again(model: nn.Module, *_: object) -> None:
    """Undo, after a pass without a backward, what would leave the root's parameters whole, and rounded with bf16."""
    assert isinstance(model, FSDPModule)
    if not torch.is_grad_enabled():
        model.reshard()


def _padded(module: nn.Module, n: int) -> int:
    """Return the module's number of parameters with the rows of each filled up to a multiple of `n`."""
    return sum(-(-p.shape[0] // n) * n * p.shape[1:].numel() for p in module.parameters())
