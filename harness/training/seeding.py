"""Settings and seeds that make two executions of the same run agree bit for bit."""

import os

import torch


def set_deterministic(deterministic: bool) -> None:
    """Allow only algorithms that give the same result every time, or let PyTorch choose."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    # Filling new memory costs time and only helps to find code that reads uninitialized memory.
    # The stub of torch lacks this attribute.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
    torch.backends.cudnn.benchmark = not deterministic


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed the random numbers of a step (dropout), so that a resumed run draws the same ones."""
    torch.manual_seed((seed * 1_000_003 + step) * 1_000_003 + rank)
