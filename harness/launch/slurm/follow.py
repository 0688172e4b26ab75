"""Follow the runs of a study that Slurm runs: progress from the files, the queue asked rarely.

Whether a run has ended is what its files say. Slurm says whether a run that has not ended is still
to come: one call of squeue for all, once a minute at most. A call that fails changes nothing.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import StoreError
from harness.launch.one_run import FAILURE_LOG_LINES, end_of_log
from harness.launch.progress import ProgressReporter
from harness.launch.slurm import commands
from harness.launch.slurm.commands import CommandError
from harness.launch.slurm.queue import (
    Element,
    Queue,
    describe_queue,
    is_to_come,
    status_changed_ns,
    stuck_reasons,
    submitted_ns,
)
from harness.results.files import read_file
from harness.results.records import RunSpec, RunStatus
from harness.results.run import Run
from harness.results.store import Store

POLL_INTERVAL_S = 1.0
POLL_SHARE = 0.1  # of the time may be spent on reading the files of many runs
FIRST_ASK_S = 10.0  # after the submission: shows jobs that end at once
SETTLE_S = 5.0  # until the files of a run that has left the queue count as complete
MAX_SHOWN = 10  # runs that are described one by one

NameRun = Callable[[Run, str | None], None]  # a run, and the start of its earlier attempt


@dataclass
class _Followed:
    """The last known state of a run that is followed."""

    run: Run
    spec: RunSpec
    status: RunStatus
    changed_ns: int  # of the status file, by the file server's clock
    submitted_ns: int
    is_shown: bool = False  # as the current attempt
    absent_since: float | None = None  # seconds, when squeue first showed that it is not queued

    @property
    def has_ended(self) -> bool:
        """Whether the run is done, or has failed since it was submitted."""
        if self.status.status == "failed":
            return self.changed_ns > self.submitted_ns
        return self.status.status == "done"


@dataclass
class Outcome:
    """How the runs ended; `lost` has those that left the queue without an end, by run id."""

    failed: list[Run] = field(default_factory=list)
    lost: dict[str, Element | None] = field(default_factory=dict)


class Follower:
    """Follow runs until each has ended or left the queue: `Follower(...).follow()`.

    `name_run` is called with each run that starts. With `fail_fast`, the first failure cancels the
    elements that wait and ends the following.
    """

    def __init__(
        self,
        store: Store,
        specs: Sequence[RunSpec],
        queue: Queue,
        progress: ProgressReporter,
        name_run: NameRun,
        fail_fast: bool = False,
    ) -> None:
        self._queue = queue
        self._progress = progress
        self._name_run = name_run
        self._fail_fast = fail_fast
        self._outcome = Outcome()
        self._elements = queue.elements()
        self._has_failed_to_ask = False
        self._shown_queue = ""
        self._shown_reasons: set[str] = set()
        self._followed: list[_Followed] = []
        times: dict[str, int] = {}
        for spec in specs:
            element = self._elements.get(spec.run_id)
            run = store.run(spec.study, spec.run_id)
            since = 0
            if element is not None:
                key = element.submission.id
                if key not in times:
                    times[key] = submitted_ns(run, element.submission)
                since = times[key]
            # Status and time of another moment than the first poll's would hide a change.
            self._followed.append(_Followed(run, spec, RunStatus(status="pending"), -1, since))

    def follow(self) -> Outcome:
        """Return when each run has ended or left the queue."""
        next_ask = time.monotonic() + FIRST_ASK_S
        while True:
            started = time.monotonic()
            self._poll()
            took_s = time.monotonic() - started
            if not self._followed or (self._fail_fast and self._outcome.failed):
                break
            if started >= next_ask and self._queue.is_due():
                self._ask()
            time.sleep(max(POLL_INTERVAL_S, took_s / POLL_SHARE))
        if self._fail_fast and self._outcome.failed:
            self._cancel_waiting()
        return self._outcome

    # -- files ------------------------------------------------------------------------------------

    def _poll(self) -> None:
        """Read the status of the runs whose file has changed, and of those not in the queue."""
        remaining = []
        for followed in self._followed:
            changed_ns = status_changed_ns(followed.run)
            has_changed = changed_ns is not None and changed_ns != followed.changed_ns
            if has_changed or followed.absent_since is not None:
                self._update(followed, changed_ns)
            if followed.has_ended:
                self._end(followed)
            elif self._has_left(followed):
                self._outcome.lost[followed.run.run_id] = self._elements.get(followed.run.run_id)
            else:
                remaining.append(followed)
        self._followed = remaining

    def _update(self, followed: _Followed, changed_ns: int | None) -> None:
        """Read the status of a run and show the start of an attempt."""
        earlier = followed.status
        try:
            followed.status = followed.run.status
        except StoreError:
            return  # moved away by a new submission, or damaged: what leaves the queue is lost
        if changed_ns is not None:
            followed.changed_ns = changed_ns
        status = followed.status
        if status.status != "running":
            followed.is_shown = followed.is_shown and status.started_at == earlier.started_at
            return
        if not followed.is_shown or status.started_at != earlier.started_at:
            followed.is_shown = True
            self._name_run(followed.run, earlier.started_at)
            self._progress.start_run(followed.run, followed.spec)

    def _end(self, followed: _Followed) -> None:
        """Report a run that has ended."""
        run = followed.run
        if not followed.is_shown:  # it started and ended between two polls
            self._name_run(run, None)
            self._progress.start_run(run, followed.spec)
        self._progress.end_run(run)
        if followed.status.status == "failed":
            self._outcome.failed.append(run)
            self._progress.log(end_of_log(run))

    def _has_left(self, followed: _Followed) -> bool:
        """Return whether a run that has not ended is not to come any more."""
        if followed.absent_since is None or followed.status.status == "running":
            return False
        return time.monotonic() - followed.absent_since >= SETTLE_S

    # -- queue ------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Ask squeue for all elements, and mark the runs that are not to come."""
        try:
            self._queue.ask()
        except CommandError as error:
            if not self._has_failed_to_ask:
                self._progress.log(f"the queue cannot be asked ({error}); runs are followed still")
            self._has_failed_to_ask = True
            return
        if self._has_failed_to_ask:
            self._progress.log("the queue can be asked again")
            self._has_failed_to_ask = False
        self._elements = self._queue.elements()
        self._show_queue()
        for followed in self._followed:
            element = self._elements.get(followed.run.run_id)
            if is_to_come(followed.run, followed.status, followed.changed_ns, element):
                followed.absent_since = None
            elif followed.absent_since is None:
                followed.absent_since = time.monotonic()

    def _show_queue(self) -> None:
        text = describe_queue(self._queue.entries)
        if text != self._shown_queue:
            self._shown_queue = text
            self._progress.log(f"queue: {text}")
        reasons = stuck_reasons(self._queue.entries)
        for reason in reasons.keys() - self._shown_reasons:
            self._shown_reasons.add(reason)
            self._progress.log(
                f"WARNING: {reasons[reason]} pending elements may never start: {reason}; "
                "`scontrol show job` explains it, `cancel` removes them"
            )

    def _cancel_waiting(self) -> None:
        """Cancel the elements that have not started and whose runs are followed."""
        followed = {followed.run.run_id for followed in self._followed}
        jobs = set()
        n_started = 0
        try:
            self._queue.ask()
            elements = self._queue.elements()
            for run_id in followed & elements.keys():
                entry = elements[run_id].entry
                if entry is None or not entry.is_queued:
                    continue
                if entry.has_started:
                    n_started += 1
                else:
                    jobs.add(entry.job)
            commands.scancel(sorted(jobs))
        except CommandError as error:
            self._progress.log(f"the elements that wait are not cancelled: {error}")
            return
        self._progress.log(
            f"a run failed: {len(jobs)} elements that had not started are cancelled; "
            f"{n_started} runs of elements that run continue"
        )


def explain_lost(store: Store, study: str, lost: Mapping[str, Element | None]) -> list[str]:
    """Return lines that say why runs have left the queue without an end, as far as it is known.

    The sources are the accounting database, if there is one, what squeue showed last, and the logs
    of the elements.
    """
    elements = [element for element in lost.values() if element is not None]
    states = _accounted([element.job for element in elements if element.job is not None])
    lines = []
    for run_id, element in list(lost.items())[:MAX_SHOWN]:
        cause = "is in no submission that is known" if element is None else _cause(element, states)
        status = store.run(study, run_id).outcome
        known = f"{status.status}: {status.message}" if status.message else status.status
        lines.append(f"{run_id} left the queue without an end ({known}): {cause}")
        if element is None:
            continue
        log = store.element_log(study, element.submission, element.index)
        if log.is_file():
            lines += [f"    {line}" for line in _tail(log)]
            lines.append(f"    the whole log: {log}")
    if len(lost) > MAX_SHOWN:
        lines.append(f"and {len(lost) - MAX_SHOWN} more")
    lines.append("`run` submits them again, from their newest checkpoints")
    return lines


def _accounted(jobs: Iterable[str]) -> dict[str, str]:
    """Return the states of jobs by the accounting database; none if there is none."""
    wanted = sorted(set(jobs))
    if not wanted:
        return {}
    try:
        entries = commands.sacct(wanted)
    except CommandError:
        return {}
    return {
        job: f"{entry.state}, exit code {entry.exit_code}, on {entry.nodes or 'no node'}"
        for job, entry in entries.items()
    }


def _cause(element: Element, accounted: Mapping[str, str]) -> str:
    job = element.job or f"job {element.submission.name}"
    if job in accounted:
        return f"{job} {accounted[job]}"
    if element.entry is None:
        return f"{job}; Slurm shows no reason any more"
    reason = f" ({element.entry.reason})" if element.entry.reason else ""
    nodes = f" on {element.entry.nodes}" if element.entry.nodes else ""
    return f"{job} {element.entry.state}{reason}{nodes}"


def _tail(path: Path) -> list[str]:
    return read_file(path).decode("utf-8", errors="replace").splitlines()[-FAILURE_LOG_LINES:]
