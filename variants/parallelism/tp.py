"""Tensor parallel: the processes compute each attention and each MLP together (Shoeybi et al. 2019, section 3).

Of the matrices that enter them a process holds rows (column-parallel in the paper, whose matrices stand the other way),
of those that leave columns. Embeddings and norms are whole on every process, and so is the output projection, which
each computes by itself.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from variants.base import ModelShape, Parallelism, Precision, StepShape
from variants.parallelism import _tensor
from variants.parallelism._sharding import numel
from variants.validation import at_least_one


class TensorParallel(Parallelism):
    """All processes see the same sequences; each has some heads of every attention, and some channels of every MLP."""

    @dataclass(frozen=True)
    class Options:
        """Parameters: the number of processes."""

        nproc: int = 2

    @classmethod
    def check(cls, shape: ModelShape, options: Any) -> Mapping[str, str]:
        """At least one process, and no dropout; what does not divide is told by the model's parts."""
        return {**at_least_one("nproc", options.nproc), **_tensor.no_dropout(shape, "tp")}

    @property
    def data_parallel_size(self) -> int:
        """Return 1."""
        return 1

    def why_unsupported(self, make: Callable[[], nn.Module]) -> str:
        """Return which part does not divide."""
        return _tensor.why_unsupported(make, self.world_size)

    def wrap(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Keep this process's part of each part."""
        mesh = init_device_mesh(device.type, (self.world_size,))
        self.group = mesh.get_group()
        _tensor.divide(model, mesh.get_local_rank(), self.world_size, self.group)
        return model.to_empty(device=device)

    @contextlib.contextmanager
    def _gradient_sync(self, model: nn.Module, enabled: bool) -> Iterator[None]:
        yield
        if enabled:
            _tensor.add_up(_tensor.shared(model), self.group)

    def gradient_sync(self, model: nn.Module, enabled: bool) -> AbstractContextManager[object]:
        """Add up what each process knows of the gradients of parameters that all of its heads share."""
        return self._gradient_sync(model, enabled)

    def memory_fractions(self, model: nn.Module) -> Mapping[str, float]:
        """Each process holds a part of the matrices, and all the rest."""
        part = numel(_tensor.divided(model, self.world_size)) / numel(model)
        return {**dict.fromkeys(("parameters", "gradients", "optimizer"), part), "gathered": 0.0}

    def predicted_bytes_sent(self, model: nn.Module, step: StepShape) -> float | None:
        """Sums of what the processes have computed."""
        return _tensor.predicted_bytes_sent(model, step, self.world_size)
