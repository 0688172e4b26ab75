"""What goes wrong in a worker that is told from the rest."""

import torch


class NotFiniteError(Exception):
    """The loss or the gradient is NaN or infinite; the message says at which step."""


def out_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out; on a CPU PyTorch has no exception of its own for that."""
    return isinstance(
        error, MemoryError | torch.OutOfMemoryError
    ) or "can't allocate memory" in str(error)
