"""Forward the runs of one launch to one tracker: `python -m harness.export.follow`.

This process reads the files of the runs, at the lowest priority, so that the training is not
disturbed. The launcher names each run on stdin before it starts it; stdin ends with the launch, or
with its process. A line on stdout says why a run is not in the tracker.
"""

import argparse
import contextlib
import importlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import orjson

from harness.export.live_points import LivePoints
from harness.export.runs import Point, RunEnd, StartTracker, TrackedRun, Tracker, results_of
from harness.results import frames
from harness.results.run import TRANSIENT_FAILURES, Run
from harness.results.run_data import RunData, read_run
from harness.results.store import Store

INTERVAL_S = 5.0
POLL_ENDED_S = 0.2
GRACE_S = 60  # after the launch, for results that are not forwarded yet
RANKS_END_S = 10.0  # after the launcher was killed, until its ranks have ended


@dataclass(frozen=True)
class NextRun:
    """A run that is about to start, and the start of its earlier attempt, if it had one."""

    run: Run
    earlier_start: str | None


class RunFollower:
    """Forward one run: `poll` while it trains, `close` when it has ended.

    An exception of the tracker is printed, and the run is given up.
    """

    def __init__(self, started: NextRun, start: StartTracker, folder: Path) -> None:
        self._run = started.run
        self._earlier_start = started.earlier_start
        self._start = start
        self._folder = folder
        self._tracker: Tracker | None = None
        self._points: LivePoints | None = None
        self._is_given_up = False

    @property
    def has_ended(self) -> bool:
        """Whether the run has started and ended."""
        status = self._run.status
        has_started = status.started_at not in (None, self._earlier_start)
        return has_started and status.status != "running"

    def poll(self) -> None:
        """Forward the points that have been recorded since the last call."""
        if self._is_given_up:
            return
        try:
            self._open()
            if self._tracker is not None and self._points is not None:
                self._forward(self._tracker, self._points.take())
        except Exception as error:  # any: the tracker is not ours, and the training continues
            self._give_up(error)

    def close(self) -> None:
        """Wait for the end of the run, forward its last points, and close it in the tracker."""
        deadline = time.monotonic() + RANKS_END_S
        while self._run.status.status == "running" and time.monotonic() < deadline:
            time.sleep(POLL_ENDED_S)
        self.poll()
        if self._is_given_up or self._tracker is None or self._points is None:
            return
        try:
            status = self._run.status
            # An attempt that can be resumed repeats its last step, maybe with an evaluation.
            is_final = status.status in ("done", "failed")
            is_final = is_final and status.reason not in TRANSIENT_FAILURES
            self._forward(self._tracker, self._points.take(has_ended=is_final))
            self._tracker.finish(_end_of(self._run, is_final))
        except Exception as error:
            self._give_up(error)

    def _open(self) -> None:
        """Open the run in the tracker once it has started."""
        if self._tracker is not None:
            return
        status = self._run.status
        if status.started_at is None or status.started_at == self._earlier_start:
            return
        spec = self._run.spec
        tracked = TrackedRun.of(spec, status.started_at)
        self._tracker = self._start(tracked, self._folder, status.attempts > 1)
        self._points = LivePoints(self._run, spec.launch.world_size, self._tracker.next_step)

    def _forward(self, tracker: Tracker, points: list[Point]) -> None:
        if points:
            tracker.log(points)

    def _give_up(self, error: Exception) -> None:
        self._is_given_up = True
        traceback.print_exception(error)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"{self._run.run_id}: {reason}", flush=True)


def _end_of(run: Run, is_final: bool) -> RunEnd:
    data = read_run(run)
    if not isinstance(data, RunData) or not is_final:
        return RunEnd(run.status.status, {})
    row = frames.runs([data], {}).iloc[0]
    return RunEnd(data.status, results_of(row))


def follow(
    messages: "queue.Queue[NextRun | None]",
    start: StartTracker,
    folder: Path,
    interval_s: float = INTERVAL_S,
) -> None:
    """Forward the runs that `messages` names, until None."""
    current: list[RunFollower] = []
    while True:
        message: NextRun | None = None
        with contextlib.suppress(queue.Empty):
            message = messages.get(timeout=interval_s)
            if message is None:
                for follower in current:
                    follower.close()
                return
        going = []
        for follower in current:
            if follower.has_ended:
                follower.close()
            else:
                follower.poll()
                going.append(follower)
        current = going
        if message is not None:
            current.append(RunFollower(message, start, folder))


def _read_messages(store: Store, study: str, messages: "queue.Queue[NextRun | None]") -> None:
    for line in sys.stdin:
        run_id, earlier_start = orjson.loads(line)
        messages.put(NextRun(store.run(study, run_id), earlier_start))
    signal.alarm(GRACE_S)  # ends this process if the tracker does not return
    messages.put(None)


def _lower_priority() -> None:
    if hasattr(os, "SCHED_IDLE"):  # Linux: only cores that nothing else uses
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)


def main() -> None:
    """Follow the runs that stdin names."""
    parser = argparse.ArgumentParser(prog="python -m harness.export.follow")
    parser.add_argument("tracker")
    parser.add_argument("results", type=Path)
    parser.add_argument("study")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--interval", type=float, default=INTERVAL_S)
    options = parser.parse_args()
    _lower_priority()
    options.folder.mkdir(parents=True, exist_ok=True)
    messages: queue.Queue[NextRun | None] = queue.Queue()
    reader = threading.Thread(
        target=_read_messages, args=(Store(options.results), options.study, messages), daemon=True
    )
    reader.start()
    start: StartTracker = importlib.import_module(f"harness.export.{options.tracker}").start
    follow(messages, start, options.folder, options.interval)


if __name__ == "__main__":
    main()
