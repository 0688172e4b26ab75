"""The wall time of a launch, and the fraction of it in which its runs trained."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from harness.errors import StoreError
from harness.launch.progress import duration
from harness.results import owner
from harness.results.files import read_lines
from harness.results.records import RunSpec, RunStatus, StepRecord
from harness.results.run import Run
from harness.results.store import Store


@dataclass(frozen=True)
class _Attempt:
    """One attempt of a run: start and end, seconds since the epoch, and the time that it trained.

    `busy_s` is the time of its steps and evaluations, without those of earlier attempts.
    """

    start: float
    end: float
    busy_s: float


def time_summary(store: Store, specs: Sequence[RunSpec], started: float, ended: float) -> str:
    """Return the wall time of a launch, and the fraction of it in which its runs trained.

    `started` and `ended` are in seconds since the epoch. Runs of other launches on this machine do
    not count. Of runs that trained at once, the fraction is the mean over as many as did.
    """
    attempts = []
    for spec in specs:
        try:
            attempt = _attempt(store.run(spec.study, spec.run_id), started)
        except StoreError:  # readers report the damaged file
            continue
        if attempt is not None:
            attempts.append(attempt)
    wall_s = ended - started
    n_at_once = _most_at_once(attempts)
    busy_s = sum(attempt.busy_s for attempt in attempts) / max(1, n_at_once)
    mean = f" (mean of {n_at_once} runs at once)" if n_at_once > 1 else ""
    share = busy_s / wall_s if wall_s > 0 else 0.0
    return f"{duration(wall_s)}, {share:.0%} of it training and evaluating{mean}"


def _attempt(run: Run, started: float) -> _Attempt | None:
    """Return the newest attempt of a run that is done; None if this launch did not start it.

    Raises:
        StoreError: a file is damaged.
    """
    if not run.exists:
        return None
    status = run.status
    probes = run.probes if status.status == "done" else None
    is_timed = probes is not None and probes.time is not None
    if not is_timed or status.started_at is None or status.ended_at is None or _is_foreign(status):
        return None
    start = datetime.fromisoformat(status.started_at).timestamp()
    if start < started:
        return None
    assert probes is not None and probes.time is not None
    n_before = probes.resumed_at[-1] if probes.resumed_at else 0
    busy_s = probes.time.train_s + probes.time.eval_s
    if n_before:
        steps = read_lines(run.steps_path(0), StepRecord)
        busy_s -= sum(line.step_s for line in steps if line.step < n_before)
        busy_s -= sum(line.eval_s for line in run.evals() if line.step <= n_before)
    return _Attempt(start, datetime.fromisoformat(status.ended_at).timestamp(), busy_s)


def _is_foreign(status: RunStatus) -> bool:
    """Return whether another process on a machine, not a job of Slurm, started a run."""
    here = owner.this_process()
    is_own = (status.host, status.pid, status.boot_id) == (here.host, here.pid, here.boot_id)
    return status.job is None and not is_own


def _most_at_once(attempts: Iterable[_Attempt]) -> int:
    """Return how many attempts ran at once at most."""
    events = []
    for attempt in attempts:
        events += [(attempt.start, 1), (attempt.end, -1)]
    n_running = 0
    most = 0
    for _, change in sorted(events):  # at one time, ends come before starts
        n_running += change
        most = max(most, n_running)
    return most
