"""Memory of one rank by category, counted from the tensors themselves, and its peak."""

import resource
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from harness.probes.activations import held_bytes
from harness.probes.first_step import FirstStep
from harness.results.records import RankMemory

RSS_UNIT_BYTES = (
    1 if sys.platform == "darwin" else 1024
)  # of getrusage: bytes on macOS, KiB on Linux


def measure_memory(
    optimizer: torch.optim.Optimizer,
    first_step: FirstStep,
    device: torch.device,
    averaged: Sequence[Tensor] = (),
) -> RankMemory:
    """Return this rank's memory by category, in bytes.

    `averaged` is the moving average of the parameters, which counts as optimizer state.
    On CUDA the peak is the allocator's, and `other` is the part of it outside the categories. On a
    CPU, where the resident set is too noisy, `other` is the gathered parameters, and the peak is
    the sum of the categories.
    """
    parameters = first_step.parameter_bytes
    gradients = first_step.gradient_bytes
    optimizer_state = held_bytes([*_state_tensors(optimizer), *averaged])
    activations = first_step.activations.saved_bytes
    known = parameters + gradients + optimizer_state + activations
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        other = max(0, peak - known)
        resident_peak = None
    else:
        other = first_step.activations.gathered_bytes
        peak = known + other
        resident_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES
    return RankMemory(
        parameters=parameters,
        gradients=gradients,
        optimizer=optimizer_state,
        activations=activations,
        other=other,
        peak=peak,
        resident_peak=resident_peak,
    )


def _state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    tensors: list[Tensor] = []
    for state in optimizer.state.values():
        tensors.extend(value for value in state.values() if isinstance(value, Tensor))
    return tensors


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out; on a CPU PyTorch raises a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error)
