"""End a run that exceeds its time limit, or whose files stop changing."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from types import TracebackType

from harness.results.records import LaunchSpec
from harness.results.store import Run

POLL_INTERVAL_S = 1.0
STOP_GRACE_S = 30.0  # between SIGTERM and SIGKILL


class Watchdog:
    """Terminate the ranks of a run that exceeds a limit, from a thread: `with Watchdog(...):`.

    `ranks` is the folder in which each rank creates a file named by its process id. `reason` says
    why the run was ended; it is None if no limit was exceeded.
    """

    def __init__(self, run: Run, limits: LaunchSpec, ranks: Path) -> None:
        self.reason: str | None = None
        self._run = run
        self._timeout_s = limits.timeout_s
        self._stall_timeout_s = limits.stall_timeout_s
        self._ranks = ranks
        timeouts = [s for s in (self._timeout_s, self._stall_timeout_s) if s is not None]
        self._interval_s = min([POLL_INTERVAL_S, *timeouts])
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        started = time.monotonic()
        polled = started
        last_activity = self._run.last_activity()
        idle_s = 0.0
        while not self._ended.wait(self._interval_s):
            now = time.monotonic()
            activity = self._run.last_activity()
            if activity == last_activity:
                # While the machine is suspended, the ranks are as well: that time does not count.
                idle_s += min(now - polled, 2 * self._interval_s)
            else:
                idle_s = 0.0
            polled = now
            last_activity = activity
            self.reason = self._exceeded_limit(now - started, idle_s)
            if self.reason is not None:
                self._terminate()
                return

    def _exceeded_limit(self, elapsed_s: float, idle_s: float) -> str | None:
        if self._timeout_s is not None and elapsed_s >= self._timeout_s:
            return f"not done after launch.timeout_s = {self._timeout_s:g} s"
        if self._stall_timeout_s is not None and idle_s >= self._stall_timeout_s:
            return f"no sign of life for launch.stall_timeout_s = {self._stall_timeout_s:g} s"
        return None

    def _terminate(self) -> None:
        """Send SIGTERM to each rank, SIGKILL after a grace period, until the launch has ended."""
        deadline = time.monotonic() + STOP_GRACE_S
        signalled: set[int] = set()
        while True:
            pids = {int(path.name) for path in self._ranks.iterdir()}
            expired = time.monotonic() >= deadline
            for pid in pids if expired else pids - signalled:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if expired else signal.SIGTERM)
            signalled |= pids
            if self._ended.wait(self._interval_s):
                return
