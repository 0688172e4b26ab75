"""The same run twice gives the same bits: what has to be set for that, and what is recorded of it."""

import os

import torch


def enforce(deterministic: bool) -> None:
    """Allow only algorithms that give the same result each time, or leave PyTorch its choice."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    # Filling fresh memory costs time and is for finding code that reads it; none here does.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 (its stub lacks the name)
    torch.backends.cudnn.benchmark = not deterministic


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed what is drawn while the model runs (dropout) from what identifies it, never from what came before."""
    torch.manual_seed((seed * 1_000_003 + step) * 1_000_003 + rank)
