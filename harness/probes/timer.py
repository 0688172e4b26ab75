"""Synchronised wall time: a GPU's queue is empty when the clock starts and when it stops."""

import time

import torch


class Timer:
    """`with timer: ...` sets `timer.seconds`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = 0.0

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def __enter__(self) -> "Timer":
        self._start = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self._now() - self._start
