"""The peak memory of the CUDA allocator, of training and of evaluations."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class AllocatorPeaks:
    """Peaks of the CUDA allocator in training and in evaluations, apart, in bytes; 0 on a CPU.

    `restart` forgets all training so far, `with peaks.evaluating():` encloses an evaluation.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._training = 0
        self.evaluation = 0

    @property
    def are_measured(self) -> bool:
        """Whether the device has an allocator that counts."""
        return self._device.type == "cuda"

    @property
    def training(self) -> int:
        """The peak since `restart` outside of evaluations."""
        return max(self._training, self._since_reset())

    def restart(self) -> None:
        """Forget the peak of training."""
        self._training = 0
        self._reset()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Count the peak within as that of evaluations."""
        self._training = self.training
        self._reset()
        yield
        self.evaluation = max(self.evaluation, self._since_reset())
        self._reset()

    def _since_reset(self) -> int:
        return torch.cuda.max_memory_allocated(self._device) if self.are_measured else 0

    def _reset(self) -> None:
        if self.are_measured:
            torch.cuda.reset_peak_memory_stats(self._device)
