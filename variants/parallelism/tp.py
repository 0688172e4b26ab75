"""Tensor parallel: processes compute each attention and MLP together (Shoeybi et al. 2019, 3).

The layers at the input of a part are column-parallel: a process holds some outputs, which are rows
of the weight in PyTorch. Those at the output are row-parallel. Token embedding, output projection
and losses are divided by tokens of the vocabulary. Positions and norms are replicated.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from variants.base import ModelShape, Parallelism, Precision, StepShape
from variants.parallelism import _tensor
from variants.parallelism._sharding import count_parameters
from variants.validation import Processes, at_least_one


@dataclass(frozen=True)
class TensorParallelOptions:
    """The number of processes."""

    nproc: Processes = 2


class TensorParallel(Parallelism[TensorParallelOptions]):
    """All processes see the same sequences; each has some heads and some channels."""

    Options = TensorParallelOptions
    title = "TP ×{nproc}"

    @classmethod
    def check(cls, shape: ModelShape, options: TensorParallelOptions) -> Mapping[str, str]:
        """`nproc` must be positive; `why_unsupported` checks the parts."""
        return at_least_one("nproc", options.nproc)

    @property
    def data_parallel_size(self) -> int:
        """Return 1."""
        return 1

    def why_unsupported(self, make_model: Callable[[], nn.Module]) -> str:
        """Return the first part that cannot be sharded, and the reason."""
        return _tensor.why_unsupported(make_model, self.world_size)

    def wrap(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Keep this rank's shard of each part."""
        mesh = init_device_mesh(device.type, (self.world_size,))
        self.group = mesh.get_group()
        _tensor.shard_model(model, mesh.get_local_rank(), self.world_size, self.group)
        return model.to_empty(device=device)

    @contextlib.contextmanager
    def _sync_scope(self, model: nn.Module, enabled: bool) -> Iterator[None]:
        yield
        if enabled:
            _tensor.reduce_gradients(_tensor.replicated_parameters(model), self.group)

    def gradient_sync(self, model: nn.Module, enabled: bool) -> AbstractContextManager[object]:
        """Sum the gradients of the parameters that the heads of all processes share."""
        return self._sync_scope(model, enabled)

    def memory_fractions(self, model: nn.Module) -> Mapping[str, float]:
        """Each process holds a shard of the matrices and all other parameters."""
        rank_model = _tensor.rank_model(model, self.world_size)
        fraction = count_parameters(rank_model) / count_parameters(model)
        held = dict.fromkeys(("parameters", "gradients", "optimizer"), fraction)
        return {**held, "gathered": 0.0}

    def state_fractions(self, model: nn.Module) -> Mapping[str, float]:
        """Each process holds the state of its shards, and of all other parameters."""
        return _tensor.rank_fractions(model, self.world_size)

    def predicted_bytes_sent(self, model: nn.Module, step: StepShape) -> float | None:
        """Count the all-reduces of activations, losses and replicated gradients."""
        return _tensor.predicted_bytes_sent(model, step, self.world_size)
