"""Data parallel with threads: one process copies the model to each GPU in each pass.

PyTorch's `DataParallel`, the predecessor of DistributedDataParallel, which PyTorch advises against
(Li et al. 2020, section 2.2): all threads share Python's lock, each micro-batch copies parameters
and collects gradients, and the first GPU holds the most.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from variants.base import ModelShape, Parallelism, Precision
from variants.validation import Processes, at_least_one


@dataclass(frozen=True)
class DataParallelOptions:
    """The number of GPUs, and of processes, which is 1."""

    n_gpu: Processes = 2
    nproc: int = 1


class DataParallel(Parallelism[DataParallelOptions]):
    """`torch.nn.DataParallel`. It needs GPUs: on a CPU it would silently be `single`."""

    Options = DataParallelOptions
    title = "DP ×{n_gpu}"
    devices = ("cuda",)
    counters_unreliable = True

    @classmethod
    def check(cls, shape: ModelShape, options: DataParallelOptions) -> Mapping[str, str]:
        """`nproc` must be 1, dropout 0: PyTorch seeds the generators of all GPUs identically."""
        problems = at_least_one("n_gpu", options.n_gpu)
        if options.nproc != 1:
            reason = "dp has one process, with a thread for each GPU; use ddp or fsdp"
            problems["nproc"] = f"{options.nproc}: {reason}"
        if shape.dropout:
            reason = "each GPU of dp would apply the same dropout mask; use ddp"
            problems[""] = f"dropout = {shape.dropout:g}: {reason}"
        return problems

    @property
    def n_devices(self) -> int:
        """Return the number of GPUs."""
        return self.options.n_gpu

    def wrap(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Keep the model on the first GPU and scatter each micro-batch over all."""
        device_ids = list(range(self.n_devices))
        return nn.DataParallel(model.to_empty(device=device), device_ids=device_ids)
