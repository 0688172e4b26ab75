"""Memory of one rank by category, counted from the tensors themselves, and the peak."""

import resource
import sys

import torch
from torch import Tensor

from harness.probes.activations import held_bytes
from harness.probes.first_step import FirstStep


def by_category(
    optimizer: torch.optim.Optimizer, first: FirstStep, device: torch.device
) -> dict[str, int | None]:
    """Return bytes of parameters, gradients, optimizer, activations, other, and peak and resident_peak.

    On CUDA `peak` is the allocator's and `other` what it holds beyond the categories; on a CPU, where the resident
    set is noise, `other` is what sharding gathers for a while and `peak` the sum of the categories.
    """
    state = [
        value
        for entry in optimizer.state.values()
        for value in entry.values()
        if isinstance(value, Tensor)
    ]
    categories: dict[str, int | None] = {
        "parameters": first.parameter_bytes,
        "gradients": first.gradient_bytes,
        "optimizer": held_bytes(state),
        "activations": first.kept.activation_bytes,
    }
    known = sum(size for size in categories.values() if size)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        return categories | {"other": max(0, peak - known), "peak": peak, "resident_peak": None}
    gathered = first.kept.gathered_bytes
    unit = (
        1 if sys.platform == "darwin" else 1024
    )  # getrusage counts in bytes there, in KiB on Linux
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return categories | {
        "other": gathered,
        "peak": known + gathered,
        "resident_peak": resident,
    }
