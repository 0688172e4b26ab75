"""Synchronized wall time, and the scopes that a training step opens around its phases."""

import time
from contextlib import AbstractContextManager, nullcontext

import torch


def synchronized_time(device: torch.device) -> float:
    """Return the clock, in seconds, after the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Timer:
    """Measure synchronized wall time: `with timer: ...` sets `timer.seconds`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = 0.0

    def __enter__(self) -> "Timer":
        self._start = synchronized_time(self._device)
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = synchronized_time(self._device) - self._start


class StepTimer:
    """Scopes of the phases of a training step. Here they do nothing; `PhaseTimer` measures them."""

    def data(self) -> AbstractContextManager[None]:
        """Enclose the wait for the step's tokens."""
        return nullcontext()

    def forward(self) -> AbstractContextManager[None]:
        """Enclose the forward pass of one micro-batch."""
        return nullcontext()

    def backward(self) -> AbstractContextManager[None]:
        """Enclose the backward pass of one micro-batch."""
        return nullcontext()

    def optimizer(self) -> AbstractContextManager[None]:
        """Enclose clipping and the optimizer step."""
        return nullcontext()


UNTIMED = StepTimer()
