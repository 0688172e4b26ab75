"""One run of a study: its status, its claims, and its life from `pending` to an end."""

import contextlib
import os
import secrets
import shutil
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Literal

from harness.errors import StoreError
from harness.results import claims, owner
from harness.results.archive import Archive
from harness.results.claims import Claim
from harness.results.files import (
    REMEDY,
    check_own_folder,
    create,
    open_file,
    own_folder,
    read_record,
    remove,
    write_json,
)
from harness.results.records import FailureReason, RunSpec, RunState, RunStatus, now
from harness.results.records.base import MAX_COUNT
from harness.results.run_files import TIMING, RunFiles

# Failures that the environment caused, not the run itself: safe to retry.
TRANSIENT_FAILURES = ("oom", "timeout", "killed", "lost", "disk")


COPY_BYTES = 1 << 22  # at once


@dataclass(frozen=True)
class Outcome:
    """The status of a run, or `unreadable`, with the reason."""

    status: RunState | Literal["unreadable"]
    reason: FailureReason | None
    message: str | None


@dataclass(frozen=True)
class Run(RunFiles):
    """One run of a study, and what may be done with it."""

    @property
    def archive(self) -> Archive:
        """The archive of the study."""
        folder = self.path.parent
        return Archive((folder.parent if folder.name == TIMING else folder) / "archive")

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
        """Whether the run has been created, also if its status is a link that leads nowhere."""
        return os.path.lexists(self._status_path)

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
        """Write the spec and mark the run as pending, unless it has been created already.

        A run that has lost its status keeps the spec of its results until it starts.

        Raises:
            StoreError: its folder is a link or no folder.
        """
        self.check_folder()
        if self.exists:
            return
        if not (self.has_results and os.path.lexists(self.path / "spec.json")):
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
        remove(temporary)
        shutil.copytree(source.path, temporary, symlinks=True)
        copied = spec.model_copy(update={"code_hash": source.code_hash})
        write_json(temporary / "spec.json", copied)
        self.check_claim()
        remove(self.path)
        temporary.rename(self.path)

    def set_aside(self) -> Path:
        """Move the run's folder to `.outdated/` of its study, which readers ignore; return it."""
        folder = own_folder(self.path.parent / ".outdated")
        code_hash = self.code_hash or "unknown"
        name = f"{self.run_id}-{code_hash if code_hash.isalnum() else 'unknown'}"
        target = folder / name
        n_earlier = 0
        while os.path.lexists(target):
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

    def claim(self, wait_s: float = 0) -> Claim | None:
        """Reserve the run for this process; None if another process holds it.

        Wait up to `wait_s` seconds for it; `math.inf` always succeeds. The claim ends with
        `release()` or with the process. It holds between all machines that share the folder.

        Raises:
            StoreError: the folder of the run or that of its claims is a link or no folder.
        """
        self.check_folder()
        fence = claims.take(self.claims, wait_s)
        if fence is None:
            return None
        return Claim(Run(self.path, fence.number), fence.number, fence)

    def beat(self) -> bool:
        """Show that a process of a fenced run lives; return whether its claim is held."""
        return self._fence is None or self._fence.beat()

    # -- progress ---------------------------------------------------------------------------------

    def mark_running(self, code_hash: str | None = None) -> None:
        """Mark the run as running in this process, with the spec's code or that of `code_hash`.

        Files of an attempt of the same code that was interrupted or that failed for a transient
        reason are kept, so that training can resume from them. Files of any other attempt are
        removed.

        Raises:
            StoreError: a file that is needed to resume cannot be read, or the checkpoints are in a
                folder that a link leads to.
        """
        before = self._stored_status
        resumes = before.status in ("running", "interrupted") or before.reason in TRANSIENT_FAILURES
        has_changed = code_hash is not None and code_hash != self.spec.code_hash
        resumes = resumes and not has_changed
        for path in self.path.iterdir():
            if path.name in ("spec.json", "status.json"):
                continue
            self.check_claim()
            with self.reading():
                if resumes and _is_needed_to_resume(path):
                    self._detach_writers(path)
                else:
                    remove(path)
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
            attempts=min(before.attempts + 1, MAX_COUNT) if resumes else 1,
        )
        write_json(self._status_path, status, self._fence)

    def _detach_writers(self, path: Path) -> None:
        """Replace a file that grows by a copy: an earlier attempt that wakes up loses its lines."""
        if path.suffix not in (".jsonl", ".txt"):
            return
        copy = self.temporary(path)
        try:
            with open_file(path) as source, open(copy, "xb") as target:
                while chunk := _read(source, path):
                    target.write(chunk)
            self.replace(copy, path)
        finally:
            copy.unlink(missing_ok=True)

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


def is_in_imported_run(path: Path) -> bool:
    """Return whether a path is that of a run of another trainer, or in its folder."""
    return any((folder / "imported.json").is_file() for folder in (path, *path.parents))


def _read(file: BufferedReader, path: Path) -> bytes:
    try:
        return file.read(COPY_BYTES)
    except OSError as error:
        raise StoreError(f"{path}: unreadable ({error}); {REMEDY}") from error


def _is_needed_to_resume(path: Path) -> bool:
    """Return whether an attempt resumes from a path; from nothing that is in place of a file."""
    if path.name == "checkpoint":
        check_own_folder(path)
        return True
    name = path.name
    return path.is_file() and (
        name in ("env.json", "eval.jsonl") or name.startswith(("steps.", "log."))
    )


def _is_of_this_kernel(status: RunStatus) -> bool:
    """Return whether the process id of a running run means the same process here."""
    here = owner.this_process()
    if status.boot_id is None:  # written by an earlier version
        return status.host == here.host
    return (status.boot_id, status.pid_namespace) == (here.boot_id, here.pid_namespace)
