"""Distributed data parallel: the whole model on every rank, gradients averaged in buckets (Li et al. 2020)."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from variants.api import Parallelism, Precision, Shape, StepShape, at_least_one
from variants.traffic import sent_bytes


class DataParallel(Parallelism):
    """`DistributedDataParallel`; gradients are views of its buckets, and travel once a step."""

    @dataclass(frozen=True)
    class Options:
        """Parameters: the number of processes."""

        nproc: int = 2

    @classmethod
    def check(cls, shape: Shape, options: Any) -> Mapping[str, str]:
        """At least one process."""
        return at_least_one("nproc", options.nproc)

    def wrap(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Replicate; nothing is broadcast, as every rank draws the same initial values by itself."""
        model.to_empty(device=device)
        ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True, init_sync=False)

    def accumulate(self, model: nn.Module, last: bool) -> AbstractContextManager[object]:
        """Keep gradients local until the last micro-batch."""
        assert isinstance(model, DistributedDataParallel)
        return nullcontext() if last else model.no_sync()

    def traffic(self, model: nn.Module, step: StepShape) -> float:
        """One all-reduce of all gradients, in fp32, after the last micro-batch (Li et al. 2020, 3.2)."""
        gradients = sum(4 * parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        return sent_bytes("all_reduce", gradients, self.nproc)
