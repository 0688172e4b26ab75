"""Data parallel by threads: one process copies the model to every GPU in each pass (PyTorch's `DataParallel`).

What PyTorch had before DistributedDataParallel, and advises against (Li et al. 2020, section 2.2): all threads share
Python's lock, parameters are copied and gradients collected in every micro-batch, and the first GPU holds the most.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from variants.base import ModelShape, Parallelism, Precision
from variants.validation import at_least_one


class DataParallel(Parallelism):
    """`torch.nn.DataParallel`, which needs GPUs: on a CPU it would silently be `single`."""

    devices = ("cuda",)
    counters_unreliable = True

    @dataclass(frozen=True)
    class Options:
        """Parameters: the number of GPUs, and of processes, which is 1."""

        n_gpu: int = 2
        nproc: int = 1

    @classmethod
    def check(cls, shape: ModelShape, options: Any) -> Mapping[str, str]:
        """One process; no dropout, as PyTorch seeds the generators of all GPUs alike."""
        problems = at_least_one("n_gpu", options.n_gpu)
        if options.nproc != 1:
            problems["nproc"] = (
                f"{options.nproc}: dp has one process, with a thread for each GPU; use ddp or fsdp"
            )
        if shape.dropout:
            problems[""] = (
                f"dropout = {shape.dropout:g}: every GPU of dp would drop the same places; use ddp"
            )
        return problems

    @property
    def n_devices(self) -> int:
        """Return the number of GPUs."""
        return int(self.options.n_gpu)

    def wrap(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Keep the model on the first GPU, which divides each micro-batch over all."""
        return nn.DataParallel(
            model.to_empty(device=device), device_ids=list(range(self.n_devices))
        )
