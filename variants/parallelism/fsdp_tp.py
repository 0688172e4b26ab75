"""Two dimensions: tensor parallel within groups of processes, fully sharded over the groups (Narayanan et al. 2021, 3).

Sums in every part travel within a group, say the GPUs of one node, shards between groups; PyTorch's "2D parallelism".
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule

from variants.base import ModelShape, Precision, StepShape
from variants.parallelism import _tensor
from variants.parallelism._sharding import FSDPBase, numel
from variants.validation import at_least_one, divides


class ShardedTensorParallel(FSDPBase):
    """A mesh of (nproc / tp) x tp processes; neighbouring ranks are a group and see the same sequences."""

    @dataclass(frozen=True)
    class Options:
        """Parameters: the number of processes, and how many of them compute each part together."""

        nproc: int = 4
        tp: int = 2

    @classmethod
    def check(cls, shape: ModelShape, options: Any) -> Mapping[str, str]:
        """Two groups of two processes at least, and no dropout; what does not divide is told by the model's parts."""
        problems = at_least_one("nproc", options.nproc) or divides(
            "tp", options.tp, "nproc", options.nproc
        )
        if not problems and (options.tp == 1 or options.tp == options.nproc):
            key = "nproc" if options.nproc < 4 else "tp"
            told = "no two groups of two at least; one group is tp, groups of one are fsdp"
            problems[key] = f"{getattr(options, key)}: {told}"
        return {**problems, **_tensor.no_dropout(shape, "fsdp_tp")}

    @property
    def data_parallel_size(self) -> int:
        """Return the number of groups."""
        return self.n_shards

    @property
    def n_shards(self) -> int:
        """Return the number of groups."""
        return int(self.world_size // self.options.tp)

    def why_unsupported(self, make: Callable[[], nn.Module]) -> str:
        """Return which part does not divide."""
        return _tensor.why_unsupported(make, self.options.tp)

    def wrap(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Keep this process's part of each part, and of that a shard."""
        mesh = init_device_mesh(
            device.type, (self.n_shards, self.options.tp), mesh_dim_names=("fsdp", "tp")
        )
        self.group = mesh.get_group("tp")
        _tensor.divide(model, mesh.get_local_rank("tp"), self.options.tp, self.group)
        return self.shard(model, mesh["fsdp"], device, precision)

    @contextlib.contextmanager
    def _gradient_sync(self, model: FSDPModule, enabled: bool) -> Iterator[None]:
        with super()._gradient_sync(model, enabled):
            yield
        if enabled:
            assert isinstance(model, nn.Module)
            _tensor.add_up(_tensor.shared(model), self.group)

    def memory_fractions(self, model: nn.Module) -> Mapping[str, float]:
        """A shard of a process's part of the matrices and of all the rest."""
        part = _tensor.divided(model, self.options.tp)
        return {
            key: value * numel(part) / numel(model)
            for key, value in super().memory_fractions(part).items()
        }

    def predicted_bytes_sent(self, model: nn.Module, step: StepShape) -> float | None:
        """Shards of the process's part between the groups, sums within one."""
        shards, sums = (
            super().predicted_bytes_sent(model, step),
            _tensor.predicted_bytes_sent(model, step, self.options.tp),
        )
        return None if shards is None or sums is None else shards + sums
