"""Fully sharded parameters (FSDP2) for the variants that use it: units, memory, communication."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager

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

from variants.base import Parallelism, Part, Precision, ProcessOptionsT, StepShape
from variants.communication import sent_bytes


class FSDPBase(Parallelism[ProcessOptionsT]):
    """`fully_shard` on units and root. The parameters of a unit are gathered while it computes."""

    min_unit_params: int | None = None  # None: each block is a unit
    reshard_after_forward: bool = True

    @property
    def n_shards(self) -> int:
        """Return the number of processes over which each parameter is sharded."""
        return self.world_size

    def units(self, model: nn.Module) -> list[nn.Module]:
        """Return the modules that are gathered as units, inner first; the root has the rest."""
        blocks = list(model.get_submodule("h").children())
        if self.min_unit_params is None:
            return blocks
        units = []
        for block in blocks:
            units += smallest_units(block, self.min_unit_params)[0]
        return units

    def bf16_units(self, model: nn.Module) -> list[nn.Module]:
        """Return the modules that are gathered in bf16 if the precision is bf16.

        They are the units, and the attentions and MLPs within a unit, that have no parameters but
        those of linear layers, which autocast rounds to bf16 in any case. All others keep their
        precision, as in a single process: norms, embeddings and gains.
        """
        found = []
        for unit in self.units(model):
            parts = [module for module in unit.modules() if isinstance(module, Part)]
            found += [module for module in dict.fromkeys([unit, *parts]) if is_linear(module)]
        return list(dict.fromkeys(found))

    def shard(
        self, model: nn.Module, mesh: DeviceMesh, device: torch.device, precision: Precision
    ) -> nn.Module:
        """Shard over the mesh; with bf16, gather `bf16_units` in bf16, reduce gradients in fp32.

        Autocast chooses the type of each operation, as in a single process, so inputs are not cast.
        """
        offload_policy = OffloadPolicy()
        if self.cpu_offload:
            offload_policy = CPUOffloadPolicy(pin_memory=device.type == "cuda")
        units = self.units(model)
        in_bf16 = self.bf16_units(model) if precision != "fp32" else []
        # Inner units first: an inner one has fewer submodules.
        nested = sorted({*units, *in_bf16}, key=lambda unit: len(list(unit.modules())))
        unrounded = MixedPrecisionPolicy(cast_forward_inputs=False)
        rounded = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for unit in nested:
            fully_shard(
                unit,
                mesh=mesh,
                reshard_after_forward=self.reshard_after_forward,
                mp_policy=rounded if unit in in_bf16 else unrounded,
                offload_policy=offload_policy,
            )
        fully_shard(model, mesh=mesh, offload_policy=offload_policy)
        model.register_forward_hook(_reshard_without_backward)
        return model.to_empty(device="cpu" if self.cpu_offload else device)

    @contextlib.contextmanager
    def _sync_scope(self, model: FSDPModule, enabled: bool) -> Iterator[None]:
        model.set_requires_gradient_sync(enabled)
        model.set_is_last_backward(enabled)
        yield

    def gradient_sync(self, model: nn.Module, enabled: bool) -> AbstractContextManager[object]:
        """Accumulate unsharded gradients until the last micro-batch, then reduce and shard them."""
        assert isinstance(model, FSDPModule)
        return self._sync_scope(model, enabled)

    def memory_fractions(self, model: nn.Module) -> Mapping[str, float]:
        """Each rank holds a shard of everything; it gathers nested units, or everything if kept."""
        total = count_parameters(model)
        gathered = self._max_gathered(model) if self.reshard_after_forward else total
        sharded = dict.fromkeys(("parameters", "gradients", "optimizer"), 1 / self.n_shards)
        return {**sharded, "gathered": gathered / total}

    def _max_gathered(self, model: nn.Module) -> int:
        """Return the most parameters gathered at once: a unit with all units around it."""
        units = [*self.units(model), model]
        submodules = {unit: set(unit.modules()) for unit in units}
        own = {}
        for unit in units:
            inner = [other for other in units if other is not unit and other in submodules[unit]]
            own[unit] = count_parameters(unit) - count_parameters(*inner)
        gathered = []
        for unit in units:
            gathered.append(sum(own[outer] for outer in units if unit in submodules[outer]))
        return max(gathered)

    def predicted_bytes_sent(self, model: nn.Module, step: StepShape) -> float | None:
        """Each micro-batch gathers a unit for forward and for backward (Zhao et al. 2023, 3.1).

        The second gather is omitted without `reshard`, and for parameters of the root, which stay
        gathered from forward to backward (in Rajbhandari et al. 2020, 7.2, everything is gathered
        twice). The last micro-batch reduces the gradients in fp32. Parameters are padded to shards
        with equal numbers of rows.
        """
        gathered = list(model.parameters())
        n_parameters = padded_size(gathered, self.n_shards)
        if self.reshard_after_forward:
            # A parameter that several units share is gathered once.
            gathered += {p: None for unit in self.units(model) for p in unit.parameters()}
        gathered_bytes = 4 * padded_size(gathered, self.n_shards)
        if step.precision != "fp32":
            rounded = {p for unit in self.bf16_units(model) for p in unit.parameters()}
            gathered_bytes -= 2 * padded_size([p for p in gathered if p in rounded], self.n_shards)
        gathered_bytes *= step.n_micro_batches
        gather_bytes = sent_bytes("all_gather", gathered_bytes, self.n_shards)
        return gather_bytes + sent_bytes("reduce_scatter", 4 * n_parameters, self.n_shards)


def is_linear(module: nn.Module) -> bool:
    """Return whether a module has parameters, and none but those of linear layers."""
    owners = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
    return bool(owners) and all(isinstance(owner, nn.Linear) for owner in owners)


def _reshard_without_backward(model: nn.Module, *_: object) -> None:
    """Reshard after an evaluation, which would leave parameters gathered."""
    if not torch.is_grad_enabled():
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def padded_size(parameters: Iterable[nn.Parameter], n_shards: int) -> int:
    """Return the number of elements with rows padded to a multiple of `n_shards`."""
    return sum(-(-p.shape[0] // n_shards) * n_shards * p.shape[1:].numel() for p in parameters)


def smallest_units(module: nn.Module, min_params: int) -> tuple[list[nn.Module], int]:
    """Return the smallest submodules with `min_params` parameters, not counting inner units.

    Also return how many parameters are in none of them. This is how FSDP's
    `size_based_auto_wrap_policy` counts (Zhao et al. 2023).
    """
    units: list[nn.Module] = []
    n_left = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    for child in module.children():
        child_units, n_child_left = smallest_units(child, min_params)
        units += child_units
        n_left += n_child_left
    if n_left >= min_params:
        return [*units, module], 0
    return units, n_left


def count_parameters(*modules: nn.Module) -> int:
    """Return the number of elements of all parameters, counting shared ones once."""
    parameters: set[nn.Parameter] = set()
    for module in modules:
        parameters.update(module.parameters())
    return sum(parameter.numel() for parameter in parameters)
