"""The folder `results/`: studies and runs. Only this module reads and writes it, without torch.

`results/README.md` states layout and meaning of each file; `harness.results.records` has the model
of each.
"""

import contextlib
import os
import platform
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import orjson
import psutil
from pydantic import ValidationError

from harness.errors import StoreError, UserError
from harness.results.archive import Archive
from harness.results.files import (
    JsonLinesWriter,
    read_lines,
    read_record,
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
    TuningRecord,
    now,
)

if TYPE_CHECKING:
    from filelock import FileLock

    from harness.results.steps import Steps

# Failures that the environment caused, not the run itself: safe to retry.
TRANSIENT_FAILURES = ("oom", "timeout", "killed")

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
    """One run's folder: `results/<study>/<run_id>/`."""

    path: Path

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
        """The short run that measures the times of this one alone on its machine; may not exist."""
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
        if status.status == "running" and not _is_alive(status):
            return status.model_copy(
                update={
                    "status": "interrupted",
                    "reason": "killed",
                    "message": "its process is gone",
                }
            )
        return status

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
        write_json(self.path / "spec.json", spec)
        temporary = self.path / f".status.json.{os.getpid()}.new"
        write_json(temporary, RunStatus(status="pending"))
        with contextlib.suppress(FileExistsError):
            os.link(temporary, self._status_path)
        temporary.unlink()

    def update_spec(self, spec: RunSpec) -> None:
        """Replace the spec before a start; settings outside the run's id, as paths, may differ."""
        write_json(self.path / "spec.json", spec)
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
        self.path.rename(target)
        return target

    def accept(self, spec: RunSpec) -> None:
        """Record that the result counts although a run of `spec` would use other code."""
        accepted = {"accepted_code_hash": spec.code_hash}
        write_json(self._status_path, self._stored_status.model_copy(update=accepted))

    def claim(self, wait_s: float = 0) -> "FileLock | None":
        """Reserve the run for this process; None if another process holds it.

        The claim ends with `release()` or with the process.

        The claim also holds between machines that share the folder, if the file system supports
        `flock`.
        """
        from filelock import FileLock, Timeout

        folder = self.path.parent / ".claims"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{self.run_id}.lock")
        try:
            lock.acquire(timeout=wait_s, poll_interval=0.5)
        except Timeout:
            return None
        return lock

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
            if resumes and _is_needed_to_resume(path.name):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        if has_changed:  # after its files are gone: a crash in between leaves none of other code
            spec = self.spec.model_copy(update={"code_hash": code_hash})
            write_json(self.path / "spec.json", spec)
        status = RunStatus(
            status="running",
            started_at=now(),
            host=platform.node(),
            pid=os.getpid(),
            pid_started=psutil.Process().create_time(),
            attempts=before.attempts + 1 if resumes else 1,
        )
        write_json(self._status_path, status)

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
        write_json(self._status_path, self._stored_status.model_copy(update=outcome))

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
        return JsonLinesWriter(self.steps_path(rank))

    def eval_file(self) -> JsonLinesWriter:
        """Open the file to which rank 0 appends the evaluations."""
        return JsonLinesWriter(self.evals_path)

    def flush(self, rank: int) -> None:
        """Flush the lines that `rank` has appended to disk."""
        for path in (self.steps_path(rank), self.evals_path):
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                os.fsync(file.fileno())

    def truncate_steps(self, rank: int, n_steps: int) -> None:
        """Keep the first `n_steps` steps that `rank` has recorded."""
        truncate_lines(self.steps_path(rank), n_steps)

    def truncate_evals(self, n_evals: int) -> None:
        """Keep the first `n_evals` evaluations."""
        truncate_lines(self.evals_path, n_evals)

    def write_env(self, env: Environment) -> None:
        """Record machine, software and commit."""
        write_json(self.path / "env.json", env)

    def write_probes(self, probes: ProbeResults) -> None:
        """Record the measurements."""
        write_json(self.path / "probes.json", probes)

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
    kept = ("checkpoint", "env.json", "eval.jsonl", "log.txt")
    return name in kept or name.startswith("steps.")


def _is_alive(status: RunStatus) -> bool:
    if status.host != platform.node():
        return True  # the process of another machine cannot be checked from here
    assert status.pid is not None and status.pid_started is not None
    try:
        process = psutil.Process(status.pid)
        is_same = abs(process.create_time() - status.pid_started) < 1
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return False


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

    def prune_pending(self, study: str, keep: set[str]) -> None:
        """Remove pending runs that the study no longer requests, never one that has started."""
        for run in self.runs(study):
            if run.run_id not in keep and run.status.status == "pending":
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
