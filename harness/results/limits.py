"""Find out whether a run exceeds its time limit, or whether its files stop changing."""

import time

from harness.results.records import LaunchSpec
from harness.results.run import Run

CHECK_INTERVAL_S = 1.0


class Limits:
    """The limits of one start of a run. `check` is called at least once a second.

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
        self.interval_s = min([CHECK_INTERVAL_S, *timeouts])
        self._started = time.monotonic()
        self._checked = self._started
        self._last_activity = run.last_activity()
        self._idle_s = 0.0

    def check(self) -> str | None:
        """Look at the run's files, unless it did a moment ago; return `reason`."""
        now = time.monotonic()
        if self.reason is not None or now - self._checked < self.interval_s:
            return self.reason
        activity = self._run.last_activity()
        if activity == self._last_activity:
            # While the machine is suspended, the ranks are as well: that time does not count.
            self._idle_s += min(now - self._checked, 2 * self.interval_s)
        else:
            self._idle_s = 0.0
        self._checked = now
        self._last_activity = activity
        self.reason = self._exceeded_limit(now - self._started)
        return self.reason

    def _exceeded_limit(self, elapsed_s: float) -> str | None:
        if self._stall_timeout_s is not None:
            self.has_stalled = self._idle_s >= self._stall_timeout_s + self._margin_s
            if self.has_stalled:
                return f"no sign of life for launch.stall_timeout_s = {self._stall_timeout_s:g} s"
        if self._timeout_s is not None and elapsed_s >= self._timeout_s + self._margin_s:
            return f"not done after launch.timeout_s = {self._timeout_s:g} s"
        return None
