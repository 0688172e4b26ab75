"""Memory of one rank by category, counted from the tensors themselves, and its peak."""

import errno
import resource
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from harness.model.gpt import GPT
from harness.probes.activations import Activations, held_bytes
from harness.probes.first_step import FirstStep
from harness.results.host_memory import Capacity
from harness.results.records import RankMemory
from variants.errors import full_text

RSS_UNIT_BYTES = (
    1 if sys.platform == "darwin" else 1024
)  # of getrusage: bytes on macOS, KiB on Linux
# In messages of errors of any type: of PyTorch's allocators, of CUDA and its libraries, of C++.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "alloc_failed",
    "std::bad_alloc",
)


def measure_memory(
    optimizer: torch.optim.Optimizer,
    first_step: FirstStep,
    averaged: Sequence[Tensor] = (),
    recomputed: int = 0,
) -> RankMemory:
    """Return this rank's memory by category, in bytes.

    `averaged` is the moving average of the parameters, which counts as optimizer state, and
    `recomputed` the bytes of `recomputed_bytes`, which count as activations.
    On CUDA the peak is the allocator's in training, and `other` is the part of it outside the
    categories. On a CPU, where the resident set is too noisy, `other` is the gathered parameters,
    and the peak is the sum of the categories.
    """
    parameters = first_step.parameter_bytes
    gradients = first_step.gradient_bytes
    optimizer_state = held_bytes([*_state_tensors(optimizer), *averaged])
    activations = first_step.activations.saved_bytes + recomputed
    known = parameters + gradients + optimizer_state + activations
    peaks = first_step.peaks
    if peaks.are_measured:
        peak = peaks.training
        evaluation_peak = peaks.evaluation
        other = max(0, peak - known)
        resident_peak = None
    else:
        other = first_step.activations.gathered_bytes
        peak = known + other
        evaluation_peak = None
        resident_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES
    return RankMemory(
        parameters=parameters,
        gradients=gradients,
        optimizer=optimizer_state,
        activations=activations,
        other=other,
        peak=peak,
        evaluation_peak=evaluation_peak,
        resident_peak=resident_peak,
    )


def recomputed_bytes(model: GPT, tokens_BT: Tensor) -> int:
    """Return the bytes of activations that the backward pass computes again at once, on one device.

    They are those of one layer, here the mean of all. The model and the tokens are on the meta
    device.
    """
    saved = []
    modules = model.recompute
    for model.recompute in (modules, "none"):
        with Activations(model) as activations:
            model(tokens_BT, tokens_BT)
        saved.append(activations.saved_bytes)
    model.recompute = modules
    return (saved[1] - saved[0]) // len(model.h)


def _state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    tensors: list[Tensor] = []
    for state in optimizer.state.values():
        tensors.extend(value for value in state.values() if isinstance(value, Tensor))
    return tensors


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out; many libraries raise a plain RuntimeError then.

    An error that was raised from another one has the cause of that one.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = full_text(error).lower()
    if any(phrase in text for phrase in OUT_OF_MEMORY):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def is_of_gpu(error: BaseException) -> bool:
    """Return whether the memory that ran out is that of a GPU."""
    return isinstance(error, torch.OutOfMemoryError) or "cuda" in full_text(error).lower()


def gpu_capacity(device: torch.device) -> Capacity:
    """Return the memory of a GPU."""
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    name = f"the GPU ({torch.cuda.get_device_name(device)})"
    return Capacity(name, total_bytes, free_bytes, is_of_each_rank=True)
