"""Micro-batches that are made one step ahead, in a thread, while the device computes."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

MicroBatches = Sequence[tuple[Tensor, Tensor]]  # tokens and targets


class Prefetch:
    """`prefetch(step)` returns the micro-batches of a step and begins to make those of the next.

    They are a function of the step, so that any step may follow any other, and a resumed run reads
    the same ones. With `pin`, they are in page-locked memory, from which a GPU copies while the
    host continues. An error of `make` is raised by the call that needs its result.
    """

    def __init__(self, make: Callable[[int], MicroBatches], *, pin: bool) -> None:
        self._make = make
        self._pin = pin
        self._thread = ThreadPoolExecutor(1, "prefetch")
        self._next: tuple[int, Future[MicroBatches]] | None = None

    def __call__(self, step: int) -> MicroBatches:
        """Return the micro-batches of a step."""
        if self._next is not None and self._next[0] == step:
            micro_batches = self._next[1].result()
        else:
            micro_batches = self._load(step)
        following = step + 1
        if self._next is None or self._next[0] != following:
            self._next = (following, self._thread.submit(self._load, following))
        return micro_batches

    def _load(self, step: int) -> MicroBatches:
        micro_batches = self._make(step)
        if not self._pin:
            return micro_batches
        return [(tokens.pin_memory(), targets.pin_memory()) for tokens, targets in micro_batches]
