"""Find out whether a run exceeds its time limit, or whether its files stop changing."""

import contextlib
import math
import time

from harness.results.records import LaunchSpec
from harness.results.run import Run

CHECK_INTERVAL_S = 1.0
CHECKS_PER_LIMIT = 16  # at least, of a limit that is shorter than 16 s
MIN_INTERVAL_S = 0.05
SUSPENDED_S = 2.0  # between two checks: the machine was suspended for the rest of a longer time


class Limits:
    """The limits of one start of a run. `check` is called every `wait_s` seconds, or more often.

    `reason` says which limit the run exceeded; it is None if it exceeded none. `has_stalled` is
    whether that is `stall_timeout_s`. Each rank checks the limits itself; what watches the ranks
    gives them `margin_s` more.
    """

    def __init__(self, run: Run, limits: LaunchSpec, margin_s: float = 0.0) -> None:
        self.reason: str | None = None
        self.has_stalled = False
        self._run = run
        self._margin_s = margin_s
        self._timeout_s = limits.timeout_s
        self._stall_timeout_s = limits.stall_timeout_s
        timeouts = [s for s in (self._timeout_s, self._stall_timeout_s) if s is not None]
        interval_s = min([CHECK_INTERVAL_S, *(s / CHECKS_PER_LIMIT for s in timeouts)])
        self._interval_s = max(interval_s, MIN_INTERVAL_S)  # a limit may be as short as 1 ns
        self._started = time.monotonic()
        self._checked = self._started
        self._last_activity = run.last_activity()
        self._idle_s = 0.0

    @property
    def stall_left_s(self) -> float:
        """The seconds until a run without a sign of life has stalled; infinite without a limit."""
        if self._stall_timeout_s is None:
            return math.inf
        return self._stall_timeout_s + self._margin_s - self._idle_s

    @property
    def wait_s(self) -> float:
        """The seconds from the last check to the next one: no stall is found late."""
        return min(self._interval_s, max(self.stall_left_s, MIN_INTERVAL_S))

    def check(self) -> str | None:
        """Look at the run's files, unless it did a moment ago; return `reason`."""
        now = time.monotonic()
        if self.reason is not None or now < self._checked + self.wait_s:
            return self.reason
        elapsed_s = now - self._checked
        activity = self._last_activity
        with contextlib.suppress(OSError):  # the file server may be away for a while
            activity = self._run.last_activity()
        if activity == self._last_activity:
            # While the machine is suspended, the ranks are as well: that time does not count.
            self._idle_s += min(elapsed_s, SUSPENDED_S)
        else:  # since the last check; when exactly is known if the file server has the same clock
            self._idle_s = min(max(time.time() - activity, 0.0), elapsed_s)
        self._checked = now
        self._last_activity = activity
        self.reason = self._exceeded_limit(now - self._started)
        return self.reason

    def _exceeded_limit(self, elapsed_s: float) -> str | None:
        self.has_stalled = self.stall_left_s <= 0
        if self.has_stalled:
            return f"no sign of life for launch.stall_timeout_s = {self._stall_timeout_s:g} s"
        if self._timeout_s is not None and elapsed_s >= self._timeout_s + self._margin_s:
            return f"not done after launch.timeout_s = {self._timeout_s:g} s"
        return None
