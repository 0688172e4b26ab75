"""Tensor parallel within groups of processes, fully sharded across them (Narayanan et al. 2021, 3).

Activations are summed within a group, for example the GPUs of one node; shards are gathered across
groups. PyTorch calls this "2D parallelism".
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule

from variants.base import ModelShape, Precision, StepShape
from variants.parallelism import _tensor
from variants.parallelism._sharding import FSDPBase, count_parameters
from variants.validation import Processes, at_least_one, divides


@dataclass(frozen=True)
class ShardedTensorParallelOptions:
    """The number of processes, and how many of them compute each part together."""

    nproc: Processes = 4
    tp: int = 2


class ShardedTensorParallel(FSDPBase[ShardedTensorParallelOptions]):
    """A mesh of (nproc / tp) x tp processes; a group of `tp` neighbours sees the same sequences."""

    Options = ShardedTensorParallelOptions
    title = "FSDP+TP ×{nproc}"

    @classmethod
    def check(cls, shape: ModelShape, options: ShardedTensorParallelOptions) -> Mapping[str, str]:
        """There must be at least 2 groups of at least 2 processes."""
        problems = at_least_one("nproc", options.nproc)
        if not problems:
            problems = divides("tp", options.tp, "nproc", options.nproc)
        if not problems and options.tp in (1, options.nproc):
            key = "nproc" if options.nproc < 4 else "tp"
            reason = (
                "needs at least 2 groups of at least 2 processes; use tp for one group, "
                "fsdp for groups of one"
            )
            problems[key] = f"{getattr(options, key)}: {reason}"
        return problems

    @property
    def data_parallel_size(self) -> int:
        """Return the number of groups."""
        return self.n_shards

    @property
    def n_shards(self) -> int:
        """Return the number of groups."""
        return self.world_size // self.options.tp

    def why_unsupported(self, make_model: Callable[[], nn.Module]) -> str:
        """Return the first part that cannot be sharded, and the reason."""
        return _tensor.why_unsupported(make_model, self.options.tp)

    def wrap(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Keep this rank's tensor-parallel shard of each part, fully sharded across the groups."""
        size = (self.n_shards, self.options.tp)
        mesh = init_device_mesh(device.type, size, mesh_dim_names=("fsdp", "tp"))
        self.group = mesh.get_group("tp")
        _tensor.shard_model(model, mesh.get_local_rank("tp"), self.options.tp, self.group)
        return self.shard(model, mesh["fsdp"], device, precision)

    @contextlib.contextmanager
    def _sync_scope(self, model: FSDPModule, enabled: bool) -> Iterator[None]:
        with super()._sync_scope(model, enabled):
            yield
        if enabled:
            assert isinstance(model, nn.Module)
            _tensor.reduce_gradients(_tensor.replicated_parameters(model), self.group)

    def memory_fractions(self, model: nn.Module) -> Mapping[str, float]:
        """Each process holds a shard of its tensor-parallel part."""
        rank_model = _tensor.rank_model(model, self.options.tp)
        n_rank = count_parameters(rank_model)
        n_total = count_parameters(model)
        fractions = super().memory_fractions(rank_model)
        return {category: value * n_rank / n_total for category, value in fractions.items()}

    def state_fractions(self, model: nn.Module) -> Mapping[str, float]:
        """Each process holds a shard of the state of its tensor-parallel part."""
        fractions = _tensor.rank_fractions(model, self.options.tp)
        return {name: fraction / self.n_shards for name, fraction in fractions.items()}

    def predicted_bytes_sent(self, model: nn.Module, step: StepShape) -> float | None:
        """Shards of this rank's part across groups, and sums of activations within one."""
        sharding = super().predicted_bytes_sent(model, step)
        sums = _tensor.predicted_bytes_sent(model, step, self.options.tp)
        return None if sharding is None or sums is None else sharding + sums
