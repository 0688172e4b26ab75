"""One element of an array job: train its runs in turn, save on Slurm's signals, come back.

Slurm's signals may arrive at any time. They become requests of a `Stop`, which is looked at before
each run starts and is forwarded to the ranks of the present one.
"""

import os
import signal
import time
from pathlib import Path

from harness.errors import ExitCode, StoreError, UserError
from harness.launch.one_run import StartRun, run_claimed
from harness.launch.slots import Slot
from harness.launch.slurm import commands
from harness.launch.slurm.commands import CommandError
from harness.launch.slurm.job import Job, has_whole_node
from harness.launch.stop import COME_BACK, Stop
from harness.results.claims import Claim
from harness.results.files import absolute, read_record
from harness.results.owner import SILENCE_S
from harness.results.records import LaunchSpec, RunSpec, Submission, now
from harness.results.run import Run
from harness.results.store import Store

POLL_INTERVAL_S = 0.5
CLAIM_WAIT_S = SILENCE_S + 15.0  # after which the owner of a claim is known to live
REQUEUE_WAIT_S = 30.0  # for Slurm to end a job that it has put back


def run_element(path: Path, job: Job, stop: Stop, start: StartRun | None = None) -> ExitCode:
    """Train the runs of the job's element of the submission in `path`; return the exit code.

    `start` starts a run and returns when it has ended; by default on the nodes of the job.

    After SIGUSR1 or SIGUSR2 the element is put back into the queue, unless it has nothing left to
    do. After SIGTERM it is not: the job was cancelled, or Slurm puts it back by itself.

    Raises:
        StoreError: the submission cannot be read.
        UserError: it has no such element.
    """
    submission = read_record(path, Submission)
    if job.index >= len(submission.elements):
        raise UserError(f"{path}: it has no element {job.index}")
    study = absolute(path).parent.parent
    element = _Element(Store(study.parent), study.name, job, stop, start or _starter(job, stop))
    element.run_all(submission.elements[job.index])
    return element.end()


class ElementLog:
    """Print the events of an element, with the time: its output is the log of the element."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}

    def log(self, text: str) -> None:
        """Print a line."""
        print(f"{now()} {text}", flush=True)

    def start_run(self, run: Run, spec: RunSpec) -> None:
        """Report that a run starts."""
        self._started[run.run_id] = time.monotonic()
        self.log(f"{run.run_id} starts, attempt {run.status.attempts + 1}")

    def end_run(self, run: Run) -> None:
        """Report how a run ended."""
        outcome = run.outcome
        seconds = time.monotonic() - self._started.pop(run.run_id)
        reason = f" ({outcome.reason}: {outcome.message})" if outcome.reason is not None else ""
        self.log(f"{run.run_id} {outcome.status} after {seconds:.1f} s{reason}")

    def skip_run(self, run: Run, reason: str) -> None:
        """Report that a run is not started, and why."""
        self.log(f"{run.run_id} not started: {reason}")


class _Element:
    """The runs of one element, and those that are left."""

    def __init__(self, store: Store, study: str, job: Job, stop: Stop, start: StartRun) -> None:
        self._store = store
        self._study = study
        self._job = job
        self._stop = stop
        self._start = start
        self._log = ElementLog()
        self._left: list[str] = []  # runs that the element has still to do
        self._has_failed = False

    def run_all(self, run_ids: list[str]) -> None:
        """Train each run; those that another process holds come last."""
        self._left = list(run_ids)
        held = []
        for run_id in run_ids:
            if self._stop.requested is not None:
                return
            run = self._store.run(self._study, run_id)
            try:
                claim = run.claim()
            except StoreError as error:
                self._log.skip_run(run, str(error))
                self._left.remove(run_id)
                self._has_failed = True
                continue
            if claim is None:
                held.append(run_id)
            else:
                self._run(claim)
        for run_id in held:
            claim = self._wait_for_claim(run_id)
            if claim is not None:
                self._run(claim)
            elif self._stop.requested is None:
                self._log.skip_run(
                    self._store.run(self._study, run_id), "another process trains it"
                )
                self._left.remove(run_id)

    def end(self) -> ExitCode:
        """Return the exit code of the element; put it back into the queue if it comes back."""
        requested = self._stop.requested
        if requested is None or not self._left:
            return ExitCode.SOME_FAILED if self._has_failed or self._left else ExitCode.DONE
        n_left = f"{len(self._left)} runs left"
        if requested not in COME_BACK:
            self._log.log(f"ended by {requested.name}, {n_left}")
            return ExitCode.INTERRUPTED
        try:
            self._requeue()
        except CommandError as error:
            self._log.log(f"saved on {requested.name}, {n_left}; not put back: {error}")
        else:
            self._log.log(f"saved on {requested.name}, {n_left}; back in the queue")
        return ExitCode.REQUEUE

    def _requeue(self) -> None:
        """Put the element back into the queue, and wait for the signal by which Slurm ends it.

        The end of this process could otherwise come first and count as the end of the job.

        Raises:
            CommandError: Slurm refused it or did not answer.
        """
        # scontrol inherits the mask: Slurm ends all processes of the job, scontrol too.
        earlier = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
        try:
            commands.requeue(self._job.name)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
        deadline = time.monotonic() + REQUEUE_WAIT_S
        while self._stop.requested in COME_BACK and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL_S)

    def _run(self, claim: Claim) -> None:
        """Train one claimed run, unless there is nothing left to do; release the claim."""
        run = claim.run
        try:
            spec = run.spec
            status = run.status
        except StoreError as error:
            claim.release()
            self._has_failed = True
            self._left.remove(run.run_id)
            self._log.skip_run(run, str(error))
            return
        if status.status == "done" and run.code_hash == spec.code_hash:
            claim.release()
            self._left.remove(run.run_id)
            self._log.skip_run(run, "done already")
            return
        is_own_failure = status.status == "failed" and status.job == self._job.name
        if is_own_failure and status.reason != "lost":
            claim.release()
            self._has_failed = True
            self._left.remove(run.run_id)
            self._log.skip_run(run, f"failed in an earlier start of this job ({status.reason})")
            return
        run_claimed(self._store, spec, claim, self._start, self._log)
        self._count(self._store.run(self._study, run.run_id))

    def _count(self, run: Run) -> None:
        """Take note of how a run has ended."""
        outcome = run.outcome.status
        if outcome == "done":
            self._left.remove(run.run_id)
        elif outcome in ("failed", "unreadable") or self._stop.requested is None:
            self._has_failed = True  # also if it was not started: the log says why
            self._left.remove(run.run_id)

    def _wait_for_claim(self, run_id: str) -> Claim | None:
        """Claim a run that another process holds, if that is found to be dead."""
        run = self._store.run(self._study, run_id)
        self._log.log(f"{run_id}: waiting for the process that holds it")
        deadline = time.monotonic() + CLAIM_WAIT_S
        while self._stop.requested is None:
            claim = run.claim()
            if claim is not None or time.monotonic() >= deadline:
                return claim
            time.sleep(POLL_INTERVAL_S)
        return None


def _starter(job: Job, stop: Stop) -> StartRun:
    """Return the function that starts a run on the nodes of the job."""

    def start(run: Run, launch: LaunchSpec) -> None:
        slot = _slot(job)
        if job.n_nodes > 1:
            from harness.launch.slurm import steps

            steps.start(run, job, slot, stop)
            return
        from harness.launch import agent  # loads torch

        agent.start(run, launch, slot, stop)

    return start


def _slot(job: Job) -> Slot:
    """Return the slot of a job's runs: all that Slurm gave to it."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    is_alone = has_whole_node(job, os.environ.get("SLURMD_NODENAME"))
    return Slot(
        devices=tuple(devices.split(",")) if devices else (),
        timing="exclusive" if is_alone else "shared",
    )
