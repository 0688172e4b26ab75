"""The folder `results/`: studies and runs. Only this module reads and writes it, without torch.

`results/README.md` states layout and meaning of each file; `harness.results.records` has the model
of each.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import orjson
from pydantic import ValidationError

from harness.errors import ClaimLost, StoreError, UserError
from harness.results import claims, owner
from harness.results.archive import Archive
from harness.results.claims import Claim, Fence
from harness.results.files import (
    JsonLinesWriter,
    create,
    read_lines,
    read_record,
    replace,
    truncate_lines,
    write_json,
)
from harness.results.records import (
    Environment,
    EvalRecord,
    FailureReason,
    ImportedRun,
    LaunchRecord,
    ProbeResults,
    RunSpec,
    RunState,
    RunStatus,
    StepRecord,
    Submission,
    TuningRecord,
    now,
)

if TYPE_CHECKING:
    from harness.results.steps import Steps

# Failures that the environment caused, not the run itself: safe to retry.
TRANSIENT_FAILURES = ("oom", "timeout", "killed", "lost")

TIMING = ".timing"  # folder of the timing runs of a study, which `runs` leaves out
LOG_TAIL_LINES = 20
LAST_LINE_BYTES = 4096  # more than a line of the step file takes


@dataclass(frozen=True)
class Outcome:
    """The status of a run, or `unreadable`, with the reason."""

    status: RunState | Literal["unreadable"]
    reason: FailureReason | None
    message: str | None


@dataclass(frozen=True)
class Run:
    """One run's folder: `results/<study>/<run_id>/`.

    With a `claim_number`, the run is fenced: a write raises `ClaimLost` once this is not the number
    of the current claim any more.
    """

    path: Path
    claim_number: int | None = field(default=None, compare=False)

    @property
    def run_id(self) -> str:
        """The folder's name: labels of the axes, seed and the hash of the resolved spec."""
        return self.path.name

    @cached_property
    def spec(self) -> RunSpec:
        """The resolved spec that the run was or will be started with."""
        return read_record(self.path / "spec.json", RunSpec)

    @property
    def is_imported(self) -> bool:
        """Whether another trainer made the run."""
        return (self.path / "imported.json").exists()

    @property
    def imported(self) -> ImportedRun:
        """The values of a run of another trainer, which has no spec."""
        return read_record(self.path / "imported.json", ImportedRun)

    @property
    def code_hash(self) -> str | None:
        """The hash of the code that computes the run; None if it is unknown or cannot be read."""
        try:
            return self.spec.code_hash
        except StoreError:
            return None

    @property
    def env(self) -> Environment | None:
        """Machine, software and commit; None before the run has started."""
        path = self.path / "env.json"
        return read_record(path, Environment) if path.exists() else None

    @property
    def probes(self) -> ProbeResults | None:
        """The measurements; None before the run is done."""
        path = self.path / "probes.json"
        return read_record(path, ProbeResults) if path.exists() else None

    @property
    def archive(self) -> Archive:
        """The archive of the study."""
        return Archive(self.path.parent / "archive")

    @property
    def timing_run(self) -> "Run":
        """The short run that measures the times of this one by itself; may not exist."""
        return Run(self.path.parent / TIMING / self.run_id)

    def sibling(self, run_id: str) -> "Run":
        """Return another run of the same study."""
        return Run(self.path.parent / run_id)

    # -- status -----------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether the run has been created."""
        return self._status_path.exists()

    @property
    def status(self) -> RunStatus:
        """The content of status.json; a running run whose process ended reads as interrupted."""
        status = self._stored_status
        if status.status != "running" or self._is_running(status):
            return status
        interrupted = {"status": "interrupted", "reason": "killed"}
        message = "its process is gone"
        if not _is_of_this_kernel(status):
            interrupted["reason"] = "lost"
            message = f"no sign of life from {status.host} for {owner.SILENCE_S:g} s"
        return status.model_copy(update=interrupted | {"message": message})

    def _is_running(self, status: RunStatus) -> bool:
        if status.claim is not None:
            return claims.is_number_held(self.claims, status.claim)
        if not _is_of_this_kernel(status):
            return True  # without a claim, the process of another machine cannot be checked
        assert status.pid is not None and status.pid_started is not None
        return owner.process_exists(status.pid, status.pid_started)

    def silence_s(self) -> float | None:
        """Return the seconds since the last heartbeat of a running run; None if it is unknown."""
        number = self._stored_status.claim
        if number is None:
            return None
        return claims.silence_s(claims.Fence(self.claims, number).path)

    @property
    def outcome(self) -> Outcome:
        """The status, also of a run whose files cannot be read."""
        try:
            status = self.status
        except StoreError as error:
            return Outcome("unreadable", "error", str(error))
        return Outcome(status.status, status.reason, status.message)

    @property
    def _status_path(self) -> Path:
        return self.path / "status.json"

    @property
    def _stored_status(self) -> RunStatus:
        return read_record(self._status_path, RunStatus)

    def create(self, spec: RunSpec) -> None:
        """Write the spec and mark the run as pending, unless it has been created already."""
        if self.exists:
            return
        write_json(self.path / "spec.json", spec, self._fence)
        temporary = self.path / f".status.json.{secrets.token_hex(8)}.new"
        write_json(temporary, RunStatus(status="pending"))
        create(temporary, self._status_path)
        temporary.unlink()

    def update_spec(self, spec: RunSpec) -> None:
        """Replace the spec before a start; settings outside the run's id, as paths, may differ."""
        write_json(self.path / "spec.json", spec, self._fence)
        self.create(spec)

    def copy_from(self, source: "Run", spec: RunSpec) -> None:
        """Take over the files of a finished run that differs in its name only; `spec` names this.

        This run must not have started.
        """
        temporary = self.path.parent / f".copy-{self.run_id}"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source.path, temporary, symlinks=True)
        copied = spec.model_copy(update={"code_hash": source.code_hash})
        write_json(temporary / "spec.json", copied)
        self.check_claim()
        if self.path.exists():
            shutil.rmtree(self.path)
        temporary.rename(self.path)

    def set_aside(self) -> Path:
        """Move the run's folder to `.outdated/` of its study, which readers ignore; return it."""
        folder = self.path.parent / ".outdated"
        folder.mkdir(exist_ok=True)
        name = f"{self.run_id}-{self.code_hash or 'unknown'}"
        target = folder / name
        n_earlier = 0
        while target.exists():
            n_earlier += 1
            target = folder / f"{name}-{n_earlier}"
        self.check_claim()
        self.path.rename(target)
        return target

    def accept(self, spec: RunSpec) -> None:
        """Record that the result counts although a run of `spec` would use other code."""
        accepted = {"accepted_code_hash": spec.code_hash}
        write_json(self._status_path, self._stored_status.model_copy(update=accepted))

    # -- claims -----------------------------------------------------------------------------------

    @property
    def claims(self) -> Path:
        """The folder of the run's claims."""
        return self.path.parent / ".claims" / self.run_id

    @property
    def _fence(self) -> Fence | None:
        return None if self.claim_number is None else Fence(self.claims, self.claim_number)

    def claim(self, wait_s: float = 0) -> Claim | None:
        """Reserve the run for this process; None if another process holds it.

        Wait up to `wait_s` seconds for it; `math.inf` always succeeds. The claim ends with
        `release()` or with the process. It holds between all machines that share the folder.
        """
        fence = claims.take(self.claims, wait_s)
        if fence is None:
            return None
        return Claim(Run(self.path, fence.number), fence.number, fence)

    def check_claim(self) -> None:
        """Check before a write that no other process has taken a fenced run over.

        Raises:
            ClaimLost: one has.
        """
        if self._fence is not None:
            self._fence.check()

    def beat(self) -> bool:
        """Show that a process of a fenced run lives; return whether its claim is held."""
        return self._fence is None or self._fence.beat()

    def temporary(self, path: Path) -> Path:
        """Return where to write what `replace` then moves to `path` within the run's folder."""
        if self._fence is not None:
            return self._fence.temporary()
        return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")

    def replace(self, temporary: Path, path: Path) -> None:
        """Rename a file of `temporary` to `path`.

        Raises:
            ClaimLost: another process has taken the run over.
        """
        replace(temporary, path, self._fence)

    # -- writes -----------------------------------------------------------------------------------

    def mark_running(self, code_hash: str | None = None) -> None:
        """Mark the run as running in this process, with the spec's code or that of `code_hash`.

        Files of an attempt of the same code that was interrupted or that failed for a transient
        reason are kept, so that training can resume from them. Files of any other attempt are
        removed.
        """
        before = self._stored_status
        resumes = before.status in ("running", "interrupted") or before.reason in TRANSIENT_FAILURES
        has_changed = code_hash is not None and code_hash != self.spec.code_hash
        resumes = resumes and not has_changed
        for path in self.path.iterdir():
            if path.name in ("spec.json", "status.json"):
                continue
            self.check_claim()
            if resumes and _is_needed_to_resume(path.name):
                self._detach_writers(path)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        if has_changed:  # after its files are gone: a crash in between leaves none of other code
            spec = self.spec.model_copy(update={"code_hash": code_hash})
            write_json(self.path / "spec.json", spec, self._fence)
        process = owner.this_process()
        status = RunStatus(
            status="running",
            started_at=now(),
            host=process.host,
            pid=process.pid,
            pid_started=process.pid_started,
            boot_id=process.boot_id,
            pid_namespace=process.pid_namespace,
            job=process.job,
            claim=self.claim_number,
            attempts=before.attempts + 1 if resumes else 1,
        )
        write_json(self._status_path, status, self._fence)

    def _detach_writers(self, path: Path) -> None:
        """Replace a file that grows by a copy: an earlier attempt that wakes up loses its lines."""
        if path.suffix in (".jsonl", ".txt"):
            copy = self.temporary(path)
            shutil.copyfile(path, copy)
            self.replace(copy, path)

    def touch(self) -> None:
        """Show that the run is alive while its files do not grow: update the status's time."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._status_path)

    def last_activity(self) -> float:
        """Return when any file in the run's folder last changed, seconds since the epoch."""
        times = [0.0]
        for folder, _, files in os.walk(self.path):  # unlike `rglob`, skips a folder that vanishes
            for name in ("", *files):
                with contextlib.suppress(FileNotFoundError):  # a temporary file that was renamed
                    times.append(os.lstat(os.path.join(folder, name)).st_mtime)
        return max(times)

    def finish(
        self, status: RunState, reason: FailureReason | None = None, message: str | None = None
    ) -> None:
        """Mark the run as ended: `done`, `failed` with a reason, or `interrupted`."""
        outcome = {"status": status, "reason": reason, "message": message, "ended_at": now()}
        write_json(self._status_path, self._stored_status.model_copy(update=outcome), self._fence)

    # -- files that the run writes ----------------------------------------------------------------

    def steps_path(self, rank: int) -> Path:
        """The file of the steps of `rank`."""
        return self.path / f"steps.rank{rank}.jsonl"

    @property
    def evals_path(self) -> Path:
        """The file of the evaluations."""
        return self.path / "eval.jsonl"

    def steps_file(self, rank: int) -> JsonLinesWriter:
        """Open the file to which `rank` appends its steps."""
        return self._lines_file(self.steps_path(rank))

    def eval_file(self) -> JsonLinesWriter:
        """Open the file to which rank 0 appends the evaluations."""
        return self._lines_file(self.evals_path)

    def _lines_file(self, path: Path) -> JsonLinesWriter:
        lines = JsonLinesWriter(path)
        self._check_opened(lines.close)
        return lines

    def open_log(self, host: str | None = None) -> int:
        """Open the log to append to it; return the file descriptor.

        A `host` other than that of rank 0 has a log of its own, `log.<host>.txt`: not every shared
        file system appends atomically.
        """
        path = self.log_path if host is None else self.path / f"log.{host}.txt"
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._check_opened(lambda: os.close(log))
        return log

    def _check_opened(self, close: Callable[[], None]) -> None:
        """Check the claim after a file is opened: one that a successor opens may be opened too."""
        try:
            self.check_claim()
        except ClaimLost:
            close()
            raise

    def flush(self, rank: int) -> None:
        """Flush the lines that `rank` has appended to disk."""
        for path in (self.steps_path(rank), self.evals_path):
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                os.fsync(file.fileno())

    def truncate_steps(self, rank: int, n_steps: int) -> None:
        """Keep the first `n_steps` steps that `rank` has recorded."""
        truncate_lines(self.steps_path(rank), n_steps, self._fence)

    def truncate_evals(self, n_evals: int) -> None:
        """Keep the first `n_evals` evaluations."""
        truncate_lines(self.evals_path, n_evals, self._fence)

    def write_env(self, env: Environment) -> None:
        """Record machine, software and commit."""
        write_json(self.path / "env.json", env, self._fence)

    def write_probes(self, probes: ProbeResults) -> None:
        """Record the measurements."""
        write_json(self.path / "probes.json", probes, self._fence)

    def trace_path(self, rank: int) -> Path:
        """The file with `rank`'s Chrome trace of one step; only runs that are traced have one."""
        return self.path / f"trace.rank{rank}.json.gz"

    @property
    def log_path(self) -> Path:
        """The file with the output of all ranks."""
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints: `step-<n>/`, and links to the newest and the best."""
        return self.path / "checkpoint"

    @property
    def newest_checkpoint(self) -> Path:
        """The link to the newest checkpoint; missing if the run has none."""
        return self.checkpoints / "newest"

    @property
    def newest_weights(self) -> Path:
        """The folder of the newest checkpoint, also if a copy of the run has lost its links."""
        if self.newest_checkpoint.is_dir():
            return self.newest_checkpoint
        folders = {}
        for folder in self.checkpoints.glob("step-*"):
            number = folder.name.removeprefix("step-")
            if number.isdecimal():
                folders[int(number)] = folder
        return folders[max(folders)] if folders else self.newest_checkpoint

    @property
    def best_checkpoint(self) -> Path:
        """The link to the checkpoint with the lowest validation loss; missing without a loss."""
        return self.checkpoints / "best"

    # -- files that the report reads --------------------------------------------------------------

    def steps(self) -> "Steps":
        """Merge the ranks' step files; only steps that every rank has recorded.

        Raises:
            StoreError: a line is damaged, or a value is out of its range.
        """
        from harness.results.steps import read_steps  # loads numpy, which takes 0.1 s

        return read_steps(sorted(self.path.glob("steps.rank*.jsonl")))

    def evals(self) -> list[EvalRecord]:
        """Return the evaluations in order."""
        return read_lines(self.evals_path, EvalRecord)

    def last_step(self) -> StepRecord | None:
        """Return the newest whole line of rank 0's steps; reads only the end of the file."""
        try:
            with open(self.steps_path(0), "rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - LAST_LINE_BYTES))
                lines = file.read().split(b"\n")[:-1]
        except FileNotFoundError:
            return None
        if not lines:
            return None
        try:
            return StepRecord.model_validate(orjson.loads(lines[-1]))
        except (ValueError, ValidationError):
            return None

    def log_tail(self, n_lines: int = LOG_TAIL_LINES) -> list[str]:
        """Return the last lines of the ranks' output."""
        try:
            text = self.log_path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return text.splitlines()[-n_lines:]


def is_in_imported_run(path: Path) -> bool:
    """Return whether a path is that of a run of another trainer, or in its folder."""
    return any((folder / "imported.json").is_file() for folder in (path, *path.parents))


def _is_needed_to_resume(name: str) -> bool:
    kept = ("checkpoint", "env.json", "eval.jsonl")
    return name in kept or name.startswith(("steps.", "log."))


def _is_of_this_kernel(status: RunStatus) -> bool:
    """Return whether the process id of a running run means the same process here."""
    here = owner.this_process()
    if status.boot_id is None:  # written by an earlier version
        return status.host == here.host
    return (status.boot_id, status.pid_namespace) == (here.boot_id, here.pid_namespace)


@dataclass(frozen=True)
class Store:
    """The results folder: `<study>/<run_id>/`, and `<study>/launches.jsonl`."""

    root: Path

    def studies(self) -> list[str]:
        """Return the names of the studies that have results."""
        return sorted(path.parent.name for path in self.root.glob("*/launches.jsonl"))

    def archive(self, study: str) -> Archive:
        """Return the archive of the inputs and the code of a study's runs."""
        return Archive(self.root / study / "archive")

    def run(self, study: str, run_id: str) -> Run:
        """Return the run of that id, created or not."""
        return Run(self.root / study / run_id)

    def runs(self, study: str) -> list[Run]:
        """Return all runs of a study that have been created, by run id."""
        return [Run(path.parent) for path in sorted((self.root / study).glob("[!.]*/status.json"))]

    def specs(self, study: str) -> list[RunSpec]:
        """Return the specs of all runs of a study whose files can be read."""
        specs = []
        for run in self.runs(study):
            with contextlib.suppress(StoreError):
                specs.append(run.spec)
        return specs

    def last_change(self, study: str) -> float:
        """Return when a file of a study last changed, seconds since the epoch; 0 without files."""
        times = [run.last_activity() for run in self.runs(study)]
        with contextlib.suppress(FileNotFoundError):
            times.append((self.root / study / "launches.jsonl").stat().st_mtime)
        return max(times, default=0.0)

    def record_launch(self, study: str, launch: LaunchRecord) -> None:
        """Append a launch: the request and the order of its runs."""
        (self.root / study).mkdir(parents=True, exist_ok=True)
        lines = JsonLinesWriter(self.root / study / "launches.jsonl")
        lines.append(launch)
        lines.close()

    def launches(self, study: str) -> list[LaunchRecord]:
        """Return the launches of a study, oldest first."""
        return read_lines(self.root / study / "launches.jsonl", LaunchRecord)

    def tuning(self, study: str) -> TuningRecord | None:
        """Return the settings that entries tried and chose; None if the study does not tune.

        Raises:
            StoreError: the file is damaged.
        """
        path = self.root / study / "tuning.json"
        return read_record(path, TuningRecord) if path.exists() else None

    def record_tuning(self, study: str, tuning: TuningRecord) -> None:
        """Replace the record of a study's tuning."""
        (self.root / study).mkdir(parents=True, exist_ok=True)
        write_json(self.root / study / "tuning.json", tuning)

    # -- submissions ------------------------------------------------------------------------------

    def submissions(self, study: str) -> list[Submission]:
        """Return the submissions of a study, oldest first."""
        paths = (self.root / study / "submissions").glob("[!.]*.json")
        found = [read_record(path, Submission) for path in paths]
        return sorted(found, key=lambda submission: submission.at)

    def submission_path(self, study: str, submission: Submission) -> Path:
        """The file of a submission."""
        return self.root / study / "submissions" / f"{submission.id}.json"

    def element_log(self, study: str, submission: Submission, index: int) -> Path:
        """The file with the output of an element of a submission."""
        return self.root / study / "submissions" / f"{submission.id}.{index}.log"

    def claim_submitting(self, study: str, wait_s: float = 0) -> Fence | None:
        """Reserve the right to submit runs of a study; None if another process holds it."""
        return claims.take(self.root / study / ".claims" / ".submitting", wait_s)

    def record_submission(self, study: str, submission: Submission) -> None:
        """Create or replace the record of a submission."""
        write_json(self.submission_path(study, submission), submission)

    def prune_pending(self, study: str, keep: set[str]) -> None:
        """Remove pending runs that the study no longer requests.

        Runs that have started or were submitted stay: an edit changes no job.
        """
        submitted = set()
        for submission in self.submissions(study):
            for run_ids in submission.elements:
                submitted.update(run_ids)
        kept = keep | submitted
        for run in self.runs(study):
            if run.run_id in kept or run.status.status != "pending":
                continue
            claim = run.claim()
            if claim is None:
                continue
            with claim:
                if run.status.status == "pending":
                    shutil.rmtree(run.path)

    def is_imported(self, study: str) -> bool:
        """Return whether the study consists of runs of another trainer."""
        return any(run.is_imported for run in self.runs(study))

    def refuse_imported(self, study: str, action: str) -> None:
        """Refuse an action that a study of another trainer does not allow.

        Raises:
            UserError: the study is imported.
        """
        if self.is_imported(study):
            raise UserError(
                f"{self.root / study}: its runs are imported from another trainer; {action}"
            )
