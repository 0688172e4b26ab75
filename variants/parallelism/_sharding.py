"""What the variants share that hold parts of parameters (FSDP2): which modules are whole together, and for how long."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)

from variants.base import Parallelism, Precision, StepShape
from variants.communication import sent_bytes


class FSDPBase(Parallelism):
    """`fully_shard` on each unit and at the root; a unit's parameters are whole only while it computes."""

    @property
    def n_shards(self) -> int:
        """Return into how many parts everything is divided."""
        return self.world_size

    def option(self, name: str, default: Any) -> Any:
        """Return an option that not all of these variants have."""
        return getattr(self.options, name, default)

    def units(self, model: nn.Module) -> list[nn.Module]:
        """Return the modules whose parameters are made whole together, inner ones first; the root has the rest."""
        blocks, wrap = list(model.get_submodule("h").children()), self.option("wrap", "block")
        return (
            blocks
            if wrap == "block"
            else [unit for b in blocks for unit in smallest(b, wrap["min_params"])[0]]
        )

    def shard(
        self, model: nn.Module, mesh: DeviceMesh, device: torch.device, precision: Precision
    ) -> nn.Module:
        """Shard over the mesh; with bf16, parameters travel as bf16 and gradients are still summed in fp32."""
        offload = self.option("cpu_offload", False)
        how: dict[str, Any] = {
            "mesh": mesh,
            "mp_policy": MixedPrecisionPolicy(
                param_dtype=torch.bfloat16 if precision == "bf16" else None,
                reduce_dtype=torch.float32,
            ),
            "offload_policy": CPUOffloadPolicy(pin_memory=device.type == "cuda")
            if offload
            else OffloadPolicy(),
        }
        for unit in self.units(model):
            fully_shard(unit, reshard_after_forward=self.option("reshard", True), **how)
        fully_shard(model, **how)
        model.register_forward_hook(_shard_again)
        return model.to_empty(device="cpu" if offload else device)

    @contextlib.contextmanager
    def _gradient_sync(self, model: FSDPModule, enabled: bool) -> Iterator[None]:
        model.set_requires_gradient_sync(enabled)
        model.set_is_last_backward(enabled)
        yield

    def gradient_sync(self, model: nn.Module, enabled: bool) -> AbstractContextManager[object]:
        """Keep whole gradients until the last micro-batch; only then sum and shard them."""
        assert isinstance(model, FSDPModule)
        return self._gradient_sync(model, enabled)

    def memory_fractions(self, model: nn.Module) -> Mapping[str, float]:
        """Each rank holds a part of everything; whole are the root and the largest unit with those round it, or all."""
        total, whole, units = numel(model), numel(model), [*self.units(model), model]
        if self.option("reshard", True):
            inside = {unit: set(unit.modules()) for unit in units}
            own = {
                unit: numel(unit)
                - numel(*(u for u in units if u is not unit and u in inside[unit]))
                for unit in units
            }
            whole = max(
                sum(own[outer] for outer in units if unit in inside[outer]) for unit in units
            )
        held = dict.fromkeys(("parameters", "gradients", "optimizer"), 1 / self.n_shards)
        return {**held, "gathered": whole / total}

    def predicted_bytes_sent(self, model: nn.Module, step: StepShape) -> float | None:
        """Each micro-batch gathers a unit for its forward pass and again for its backward pass (Zhao et al. 2023, 3.1).

        Not again without `reshard`, nor what belongs to the root, which stays whole from forward to backward (in
        Rajbhandari et al. 2020, 7.2, all is gathered twice). The last micro-batch reduces gradients, in fp32.
        Parameters are padded to shards of equal rows.
        """
        whole = padded(model.parameters(), self.n_shards)
        again = (
            {p: None for unit in self.units(model) for p in unit.parameters()}
            if self.option("reshard", True)
            else {}
        )
        size = 2 if step.precision == "bf16" else 4
        gathered = step.n_micro_batches * (whole + padded(again, self.n_shards)) * size
        return sent_bytes("all_gather", gathered, self.n_shards) + sent_bytes(
            "reduce_scatter", 4 * whole, self.n_shards
        )


def _shard_again(model: nn.Module, *_: object) -> None:
    """Undo, after a pass without a backward, what would leave parameters whole, and rounded with bf16."""
    if not torch.is_grad_enabled():
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def padded(parameters: Iterable[nn.Parameter], n: int) -> int:
    """Return the number of parameters with the rows of each filled up to a multiple of `n`."""
    return sum(-(-p.shape[0] // n) * n * p.shape[1:].numel() for p in parameters)


def smallest(module: nn.Module, least: int) -> tuple[list[nn.Module], int]:
    """Return the smallest submodules with at least so many parameters, those of others among them not counted.

    Also returns how many parameters are left over (as FSDP's `size_based_auto_wrap_policy` counts; Zhao et al. 2023).
    """
    units, left = [], sum(parameter.numel() for parameter in module.parameters(recurse=False))
    for child in module.children():
        found, rest = smallest(child, least)
        units += found
        left += rest
    return ([*units, module], 0) if left >= least else (units, left)


def numel(*modules: nn.Module) -> int:
    """Return the number of parameters of some modules together; what several hold counts once."""
    return sum(
        parameter.numel() for parameter in {p for module in modules for p in module.parameters()}
    )
