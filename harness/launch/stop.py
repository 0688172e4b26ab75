"""A request to end runs, made from any thread or from a signal handler."""

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

# A request replaces an earlier one that is weaker. TERM is stronger than USR1: a job that was
# cancelled while it saved must not come back.
STRENGTH = {
    signal.SIGUSR1: 0,
    signal.SIGUSR2: 0,
    signal.SIGTERM: 1,
    signal.SIGINT: 1,
    signal.SIGKILL: 2,
}
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
COME_BACK = (signal.SIGUSR1, signal.SIGUSR2)  # of a job that is to start again
IN_JOB = (*HANDLED, *COME_BACK)


class Stop:
    """A request to end that any number of launches share.

    Each launch sends the signal to its ranks, and SIGKILL after a grace period. No method takes a
    lock: a signal handler may call it while the same thread is inside of another call.
    """

    def __init__(self) -> None:
        self._numbers: list[signal.Signals] = []
        self._launches: set[object] = set()

    @property
    def requested(self) -> signal.Signals | None:
        """The strongest signal that was requested, the first one among equals."""
        return max(self._numbers, key=lambda number: STRENGTH[number], default=None)

    def request(self, number: signal.Signals) -> None:
        """Ask the ranks of all launches to end, by one of the signals in `STRENGTH`."""
        self._numbers.append(number)

    @contextlib.contextmanager
    def launching(self) -> Iterator[None]:
        """Count a launch while the context lasts."""
        launch = object()
        self._launches.add(launch)
        try:
            yield
        finally:
            self._launches.discard(launch)

    @contextlib.contextmanager
    def on_signals(
        self, numbers: Sequence[signal.Signals] = HANDLED, interrupts: bool = True
    ) -> Iterator[None]:
        """Let signals, also Ctrl-C, request a stop while the context lasts.

        A second Ctrl-C kills the ranks. With `interrupts`, a signal raises KeyboardInterrupt while
        no launch uses this Stop. Without effect outside of the main thread.
        """

        def handle(number: int, frame: FrameType | None) -> None:
            self._request_by(signal.Signals(number))
            if interrupts and not self._launches:
                raise KeyboardInterrupt

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        earlier = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def _request_by(self, number: signal.Signals) -> None:
        if number == signal.SIGINT and signal.SIGINT in self._numbers:
            self.request(signal.SIGKILL)
        elif number in STRENGTH:
            self.request(number)
        else:  # the ranks know no SIGHUP and no SIGQUIT
            self.request(signal.SIGTERM)
