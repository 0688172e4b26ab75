"""A request to end runs, made from any thread or from a signal handler."""

import contextlib
import signal
from collections.abc import Iterator
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
    def on_signals(self) -> Iterator[None]:
        """Let Ctrl-C, SIGTERM, SIGHUP and SIGQUIT request a stop while the context lasts.

        A second Ctrl-C kills the ranks. While no launch uses this Stop, a signal raises
        KeyboardInterrupt. Without effect outside of the main thread.
        """
        try:
            earlier = {number: signal.signal(number, self._handle) for number in HANDLED}
        except ValueError:  # not the main thread
            yield
            return
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_repeated = number == signal.SIGINT and signal.SIGINT in self._numbers
        if is_repeated:
            self.request(signal.SIGKILL)
        else:
            # The ranks know no SIGHUP and no SIGQUIT.
            self.request(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
        if not self._launches:
            raise KeyboardInterrupt
