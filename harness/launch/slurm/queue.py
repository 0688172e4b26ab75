"""The queue of a study: which element has which run to do, by its submissions and squeue."""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.errors import Problem, StoreError, UserError
from harness.launch.slurm import commands
from harness.launch.slurm.commands import CommandError, QueueEntry
from harness.results.records import RunStatus, Submission
from harness.results.run import Run
from harness.results.store import Store

ASK_INTERVAL_S = 60.0  # between two calls of squeue
# Reasons of waiting that pass by themselves.
ORDINARY_REASONS = (
    "",
    "BeginTime",
    "Cleaning",
    "JobArrayTaskLimit",
    "Priority",
    "Prolog",
    "Resources",
)


@dataclass(frozen=True)
class Element:
    """An element of a submission, and what squeue showed of it last."""

    submission: Submission
    index: int
    entry: QueueEntry | None  # None: squeue showed nothing of it

    @property
    def run_ids(self) -> list[str]:
        """The runs of the element."""
        return self.submission.elements[self.index]

    @property
    def is_queued(self) -> bool:
        """Whether the element waits or runs."""
        return self.entry is not None and self.entry.is_queued

    @property
    def job(self) -> str | None:
        """The element as Slurm names it: `123_4`; None if its job id is not known."""
        if self.entry is not None:
            return self.entry.job
        job = self.submission.job
        return None if job is None else f"{job}_{self.index}"


def find_elements(
    submissions: Iterable[Submission], entries: Iterable[QueueEntry]
) -> Iterator[Element]:
    """Yield each element with what squeue showed of it.

    Entries are found by the name of the job, which is known before the job has an id.
    """
    by_element = {(entry.name, entry.index or 0): entry for entry in entries}
    for submission in submissions:
        for index in range(len(submission.elements)):
            yield Element(submission, index, by_element.get((submission.name, index)))


def elements_by_run(
    submissions: Iterable[Submission], entries: Iterable[QueueEntry]
) -> dict[str, Element]:
    """Return the element of each run, by run id: one in the queue, or else the newest.

    `submissions` are in the order of their submission.
    """
    elements: dict[str, Element] = {}
    for element in find_elements(submissions, entries):
        for run_id in element.run_ids:
            earlier = elements.get(run_id)
            if earlier is None or element.is_queued or not earlier.is_queued:
                elements[run_id] = element
    return elements


class Queue:
    """The elements of some submissions: asked in one call, once in ASK_INTERVAL_S at most."""

    def __init__(self, submissions: Sequence[Submission]) -> None:
        self.submissions = list(submissions)
        self.entries: list[QueueEntry] = []
        self.error: str | None = None  # of the last call
        self._asked_at: float | None = None

    def add(self, submissions: Iterable[Submission]) -> None:
        """Include other submissions from the next call on."""
        self.submissions += submissions

    def ask(self) -> None:
        """Ask squeue now.

        Raises:
            CommandError: it cannot be asked; the entries stay those of the last answer.
        """
        if not self.submissions:
            return
        self._asked_at = time.monotonic()
        try:
            self.entries = commands.squeue(submission.name for submission in self.submissions)
        except CommandError as error:
            self.error = str(error)
            raise
        self.error = None

    def is_due(self) -> bool:
        """Return whether the last call was long enough ago."""
        return self._asked_at is None or time.monotonic() - self._asked_at >= ASK_INTERVAL_S

    def elements(self) -> dict[str, Element]:
        """Return the element of each run, by run id."""
        return elements_by_run(self.submissions, self.entries)


def submissions_of(store: Store, study: str, run_ids: Iterable[str]) -> list[Submission]:
    """Return the submissions of a study that have one of these runs to do, oldest first."""
    wanted = set(run_ids)
    found = []
    for submission in store.submissions(study):
        if any(not wanted.isdisjoint(element) for element in submission.elements):
            found.append(submission)
    return found


def is_to_come(run: Run, status: RunStatus, changed_ns: int, element: Element | None) -> bool:
    """Return whether an element of the queue has still to do a run, or does it now.

    `changed_ns` is when the status changed. A run that failed before the submission is retried by
    it; one that failed after it has ended. Both times are of the file server's clock.
    """
    if element is None or not element.is_queued:
        return False
    return _is_left(run, status, changed_ns, element.submission)


def _is_left(run: Run, status: RunStatus, changed_ns: int, submission: Submission) -> bool:
    """Return whether a run has not ended since it was submitted."""
    if status.status == "failed":
        return changed_ns <= submitted_ns(run, submission)
    return status.status != "done"


def status_changed_ns(run: Run) -> int | None:
    """Return when a run's status last changed, by the file server's clock; None without one."""
    try:
        return os.stat(run.path / "status.json").st_mtime_ns
    except OSError:
        return None


@contextlib.contextmanager
def unqueued(store: Store, study: str, runs: Sequence[Run]) -> Iterator[None]:
    """Keep runs of a study out of Slurm's queue while the context lasts.

    If the queue cannot be asked, a run that was submitted counts as queued until it has ended.

    Raises:
        UserError: runs are in the queue, each of which is named, or another process submits runs
            of the study.
    """
    if not runs:
        yield
        return
    claim = store.claim_submitting(study)
    if claim is None:
        raise UserError(f"{store.root / study}: another process submits runs of it; stop it first")
    try:
        _refuse_queued(store, study, runs)
        yield
    finally:
        claim.release()


def _refuse_queued(store: Store, study: str, runs: Sequence[Run]) -> None:
    queue = Queue(submissions_of(store, study, (run.run_id for run in runs)))
    with contextlib.suppress(CommandError):
        queue.ask()
    elements = queue.elements()
    problems = []
    for run in runs:
        element = elements.get(run.run_id)
        if element is None or not (element.is_queued or queue.error) or _has_ended(run, element):
            continue
        message = f"is in the queue (job {element.job}); `cancel {study}` ends it first"
        if queue.error is not None:
            file = store.submission_path(study, element.submission)
            message = (
                f"may be in the queue, which cannot be asked ({queue.error}); repeat the command "
                f"where Slurm answers, or remove {file} if its jobs are gone"
            )
        problems.append(Problem(str(run.path), message))
    if problems:
        raise UserError(problems)


def _has_ended(run: Run, element: Element) -> bool:
    """Return whether a run has ended since it was submitted; False if it cannot be read."""
    try:
        status = run.status
    except StoreError:
        return False
    return not _is_left(run, status, status_changed_ns(run) or 0, element.submission)


def submitted_ns(run: Run, submission: Submission) -> int:
    """Return when a submission of a run was recorded, by the file server; 0 without its file."""
    path = Store(run.path.parent.parent).submission_path(run.path.parent.name, submission)
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0


def describe_queue(entries: Iterable[QueueEntry]) -> str:
    """Return one line about the elements in the queue: how many wait and why, how many run where.

    >>> describe_queue([])
    'no elements in the queue'
    """
    reasons: Counter[str] = Counter()
    nodes: Counter[str] = Counter()
    for entry in entries:
        if entry.has_started:
            nodes[entry.nodes] += 1
        elif entry.is_queued:
            reasons[entry.reason or "no reason given"] += 1
    parts = []
    if reasons:
        parts.append(f"{_elements(reasons.total())} pending ({_counts(reasons)})")
    if nodes:
        parts.append(f"{nodes.total()} running on {_counts(nodes)}")
    return ", ".join(parts) or "no elements in the queue"


def stuck_reasons(entries: Iterable[QueueEntry]) -> dict[str, int]:
    """Return the reasons of waiting that may not pass by themselves, with the number of elements.

    >>> held = QueueEntry("1_0", "1", 0, "s", "PENDING", "JobHeldUser", "")
    >>> stuck_reasons([held])
    {'JobHeldUser': 1}
    """
    reasons: Counter[str] = Counter()
    for entry in entries:
        is_waiting = entry.is_queued and not entry.has_started
        if is_waiting and entry.reason not in ORDINARY_REASONS:
            reasons[entry.reason] += 1
    return dict(reasons)


def _elements(count: int) -> str:
    return "1 element" if count == 1 else f"{count:,} elements"


def _counts(counter: "Counter[str]") -> str:
    """Return names with their counts, the most frequent first, at most six of them."""
    shown = [f"{name}: {count}" if count > 1 else name for name, count in counter.most_common(6)]
    n_more = len(counter) - len(shown)
    return ", ".join(shown) + (f" and {n_more} more" if n_more else "")
