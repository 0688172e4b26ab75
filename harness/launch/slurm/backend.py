"""The backend `slurm`: submit missing runs, and follow those in the queue."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from harness.errors import ExitCode, StoreError, UserError
from harness.launch.backend import Stopped
from harness.launch.one_run import source_run
from harness.launch.progress import ProgressReporter
from harness.launch.slurm.commands import CommandError
from harness.launch.slurm.follow import Follower, NameRun, explain_lost
from harness.launch.slurm.queue import Queue, is_to_come, status_changed_ns, submissions_of
from harness.launch.slurm.submit import record_job
from harness.launch.stop import Stop
from harness.results.records import RunSpec, RunStatus, Submission
from harness.results.run import Run
from harness.results.store import Store

LOCK_POLL_S = 5.0

Log = Callable[[str], None]
# Submits runs of a study that are due, in this order, as array jobs.
Submit = Callable[[Store, str, Sequence[RunSpec]], Sequence[Submission]]


@dataclass(frozen=True)
class SlurmBackend:
    """Run on the nodes of a Slurm cluster. `name_run` is called with each run that starts.

    Without `waits`, the runs that are due are submitted and not followed.
    """

    submit: Submit
    log: Log
    name_run: NameRun
    waits: bool = True

    def run_all(self, store: Store, specs: Sequence[RunSpec], fail_fast: bool) -> None:
        """See `Backend`. Runs that start from others are submitted when those are done.

        Raises:
            Stopped: the user stopped the command, or does not wait; the jobs continue.
            UserError: the queue cannot be asked, or Slurm refuses a submission.
        """
        if not specs:
            return
        before = {spec.run_id: _status(store.run(spec.study, spec.run_id)) for spec in specs}
        try:
            with Stop().on_signals():
                self._run_all(store, specs, before, fail_fast)
        except KeyboardInterrupt as error:
            raise Stopped(f"stopped following; {_how_to_continue(specs[0].study)}") from error

    def _run_all(
        self,
        store: Store,
        specs: Sequence[RunSpec],
        before: dict[str, RunStatus | None],
        fail_fast: bool,
    ) -> None:
        study = specs[0].study
        with ProgressReporter(specs) as progress:
            for ready in _rounds(store, specs, progress):
                queue = self._submit_missing(store, study, ready, before, progress.log)
                if not self.waits:
                    raise Stopped(_not_followed(len(specs) - len(ready), study), ExitCode.DONE)
                follower = Follower(store, ready, queue, progress, self.name_run, fail_fast)
                outcome = follower.follow()
                if outcome.lost:
                    progress.log("\n".join(explain_lost(store, study, outcome.lost)))
                if fail_fast and outcome.failed:
                    return

    def _submit_missing(
        self,
        store: Store,
        study: str,
        specs: Sequence[RunSpec],
        before: dict[str, RunStatus | None],
        log: Log,
    ) -> Queue:
        """Submit the runs that are due and not in the queue; return the queue of all of them.

        One process of a study does this at a time, so that no run is submitted twice.
        """
        with _only_submitter(store, study, log):
            queue = Queue(submissions_of(store, study, [spec.run_id for spec in specs]))
            try:
                queue.ask()
            except CommandError as error:
                raise UserError(
                    f"the queue cannot be asked ({error}), and runs of this study may be in it: "
                    "nothing is submitted; run the command again when Slurm answers"
                ) from error
            record_jobs(store, study, queue)
            missing = _missing(store, specs, queue, before)
            n_followed = len(specs) - len(missing)
            if n_followed:
                log(f"{n_followed} runs are in the queue or running already, and are followed")
            if missing:
                submitted = self.submit(store, study, missing)
                queue.add(submitted)
                for submission in submitted:
                    n_runs = sum(map(len, submission.elements))
                    log(
                        f"submitted job {submission.job}: {n_runs} runs in "
                        f"{len(submission.elements)} elements"
                    )
            return queue


@contextlib.contextmanager
def _only_submitter(store: Store, study: str, log: Log) -> Iterator[None]:
    """Hold the study's claim for submitting; wait for another process that holds it."""
    claim = store.claim_submitting(study)
    if claim is None:
        log("waiting for another process that submits runs of this study")
    while claim is None:
        claim = store.claim_submitting(study, LOCK_POLL_S)
    try:
        yield
    finally:
        claim.release()


def record_jobs(store: Store, study: str, queue: Queue) -> None:
    """Record the job ids of submissions whose process died before it recorded them."""
    ids = {entry.name: entry.array_job for entry in queue.entries}
    for i, submission in enumerate(queue.submissions):
        if submission.job is None and submission.name in ids:
            queue.submissions[i] = record_job(store, study, submission, ids[submission.name])


def _missing(
    store: Store,
    specs: Sequence[RunSpec],
    queue: Queue,
    before: dict[str, RunStatus | None],
) -> list[RunSpec]:
    """Return the runs that have not ended, do not run, and are not to come."""
    elements = queue.elements()
    missing = []
    for spec in specs:
        run = store.run(spec.study, spec.run_id)
        changed_ns = status_changed_ns(run)
        status = _status(run)
        if status is None or changed_ns is None:
            missing.append(spec)
            continue
        has_ended_since = status.status in ("done", "failed") and status != before[spec.run_id]
        is_current = status.status == "done" and run.code_hash == spec.code_hash
        if has_ended_since or is_current or status.status == "running":
            continue
        if not is_to_come(run, status, changed_ns, elements.get(spec.run_id)):
            missing.append(spec)
    return missing


def _rounds(
    store: Store, specs: Sequence[RunSpec], progress: ProgressReporter
) -> Iterator[list[RunSpec]]:
    """Yield the runs whose source run is done, then those whose source was among these."""
    remaining = list(specs)
    while remaining:
        waiting = {spec.run_id for spec in remaining}
        ready = [spec for spec in remaining if _is_ready(store, spec, waiting)]
        if not ready:
            for spec in remaining:
                run = store.run(spec.study, spec.run_id)
                progress.skip_run(run, f"waits for {spec.source_id}, which is not done")
            return
        yield ready
        ready_ids = {spec.run_id for spec in ready}
        remaining = [spec for spec in remaining if spec.run_id not in ready_ids]


def _is_ready(store: Store, spec: RunSpec, waiting: set[str]) -> bool:
    """Return whether the run needs no checkpoint of another one, or that one is done."""
    source = source_run(store, spec)
    if source is None:
        return True
    if source.run_id in waiting:
        return False
    return source.outcome.status == "done"


def _status(run: Run) -> RunStatus | None:
    """Return the status of a run; None if it has not been created, or cannot be read."""
    try:
        return run.status
    except StoreError:
        return None


def _not_followed(n_later: int, study: str) -> str:
    later = f"{n_later} runs start from others and are submitted by a later `run`; "
    return f"{later if n_later else ''}not followed; {_how_to_continue(study)}"


def _how_to_continue(study: str) -> str:
    return (
        f"jobs in the queue continue. The same command follows them again, `status {study}` shows "
        f"them, `cancel {study}` ends them"
    )
