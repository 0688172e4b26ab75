"""Errors of a training process that the run's status distinguishes."""

import torch


class NotFiniteError(Exception):
    """The loss or the gradient norm is NaN or infinite; the message names the step."""


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out; on a CPU PyTorch raises a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error)
