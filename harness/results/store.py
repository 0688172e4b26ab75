"""The only reader and writer of `results/`: plain files that outlive the process, never torch.

Layout and meaning of each file are stated in `results/README.md`. Every file is either replaced whole
(written beside, flushed to disk, renamed) or grows by whole lines, so that a reader sees the old or the new state and
never half of one; a torn last line, left by a machine that died, is passed over.
"""

import contextlib
import os
import platform
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import orjson
import psutil
from filelock import FileLock, Timeout

from harness.errors import StoreError as StoreError

SCHEMA_VERSION = 1

Status = Literal["pending", "running", "done", "failed", "interrupted"]
Reason = Literal["oom", "nan", "timeout", "killed", "error"]
Json = dict[str, Any]

_JSON = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY

TRANSIENT_FAILURES = (
    "oom",
    "timeout",
    "killed",
)  # reasons that lie in where and when a run took place, not in what it computes


def now() -> str:
    """Return the time in UTC as ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat()


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` with `content` such that a crash leaves the old or the new file, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace `path` with `text`, whole, as UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Json) -> None:
    """Replace `path` with `value` as JSON; numbers keep every digit, NaN and infinities become null.

    Dataclasses are written as their fields.
    """
    write_bytes(path, orjson.dumps(value, option=_JSON | orjson.OPT_INDENT_2))


def read_json(path: Path) -> Json:
    """Read one JSON object.

    Raises:
        StoreError: the file is not JSON, or was written by another schema version.
    """
    try:
        value: Json = orjson.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path}: unreadable ({error}); remove its folder to run that entry again"
        ) from error
    if value.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise StoreError(
            f"{path}: schema_version {value['schema_version']}, this version reads {SCHEMA_VERSION}; "
            "use the version that wrote it, or another --results folder"
        )
    return value


class Lines:
    """A file of JSON lines that grows by one whole line for each `append`, at once and in one write."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def append(self, record: Json) -> None:
        """Write one record; readers see it from now on.

        Raises:
            OSError: it cannot be written whole, as on a full disk.
        """
        line = orjson.dumps(record, option=_JSON)
        if (n_written := os.write(self._fd, line)) < len(line):
            os.write(self._fd, line[n_written:])  # says why

    def close(self) -> None:
        """Close the file; nothing is buffered, so nothing can get lost before."""
        os.close(self._fd)


def _cut(path: Path, n_lines: int) -> None:
    if path.exists():
        write_bytes(path, b"".join(path.read_bytes().splitlines(keepends=True)[:n_lines]))


def read_lines(path: Path) -> list[Json]:
    """Read JSON lines; none where the file is absent. A torn last line is passed over.

    Raises:
        StoreError: a whole line is no JSON object.
    """
    found, n_lines = _sound(path)
    if len(found) < n_lines:
        raise StoreError(
            f"{path}: line {len(found) + 1} is unreadable; remove its folder to run that entry again"
        )
    return found


def read_valid_lines(path: Path) -> list[Json]:
    """Read JSON lines up to the first that is damaged or torn."""
    return _sound(path)[0]


def _sound(path: Path) -> tuple[list[Json], int]:
    """Return the lines up to the first that is damaged, and how many whole lines there are."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return [], 0
    try:
        found = [orjson.loads(line) for line in lines]
    except ValueError:
        found = [_or_none(line) for line in lines]
    n_sound = next((i for i, value in enumerate(found) if not isinstance(value, dict)), len(lines))
    return found[:n_sound], len(lines)


def _or_none(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except ValueError:
        return None


@dataclass(frozen=True)
class Steps:
    """The steps of a run as columns, each of shape (n_steps,), over all its ranks.

    `step_s` is the slowest rank's, since all wait for it. `loss` is the mean over the step's global tokens, NaN where
    the run broke. `warmup` flags steps that are kept but not timed (warming up, compiling).
    """

    step: np.ndarray
    loss: np.ndarray
    step_s: np.ndarray
    tokens: np.ndarray
    grad_norm: np.ndarray
    lr: np.ndarray
    warmup: np.ndarray

    def __len__(self) -> int:
        return len(self.step)


_COLUMNS = ("step", "loss", "tokens", "grad_norm", "lr", "warmup")
_STEP = itemgetter(*_COLUMNS)


@dataclass(frozen=True)
class Run:
    """One run's folder: `results/<study>/<run_id>/`."""

    path: Path

    @property
    def run_id(self) -> str:
        """The folder's name: readable axes, seed and the hash of the resolved spec."""
        return self.path.name

    @cached_property
    def spec(self) -> Json:
        """The resolved spec that the run was or will be started with."""
        return read_json(self.path / "spec.json")

    @property
    def env(self) -> Json:
        """Versions, host, processor, threads, commit; empty before the run has started."""
        return self._optional("env.json")

    @property
    def probes(self) -> Json:
        """Memory, FLOPs and times as measured; empty before the run has ended."""
        return self._optional("probes.json")

    def _optional(self, name: str) -> Json:
        path = self.path / name
        return read_json(path) if path.exists() else {}

    # -- status ----------------------------------------------------------------------------------------------------

    @property
    def status(self) -> Json:
        """The content of status.json; a run whose process is gone reads as interrupted, not as running."""
        status = read_json(self.path / "status.json")
        wanted = ("status", "reason", "message", "started_at")
        known = all(key in status and isinstance(status[key], str | None) for key in wanted)
        process = [
            isinstance(status.get(key), kind)
            for key, kind in (("pid", int), ("pid_started", float))
        ]
        if (
            not known
            or status["status"] not in get_args(Status)
            or (status["status"] == "running" and not all(process))
        ):
            raise StoreError(
                f"{self.path / 'status.json'}: damaged; remove its folder to run that entry again"
            )
        if status["status"] == "running" and not _alive(status):
            return status | {
                "status": "interrupted",
                "reason": "killed",
                "message": "its process is gone",
            }
        return status

    def plan(self, spec: Json) -> None:
        """Write the spec and mark the run as pending, unless it is known already, also to another process just now."""
        if not (self.path / "status.json").exists():
            write_json(self.path / "spec.json", spec)
            fields = dict.fromkeys(("reason", "message", "started_at", "ended_at"))
            status = {"schema_version": SCHEMA_VERSION, "status": "pending"} | fields
            beside = self.path / f".status.json.{os.getpid()}.new"
            write_json(beside, status)
            with contextlib.suppress(FileExistsError):
                os.link(beside, self.path / "status.json")
            beside.unlink()

    def update_spec(self, spec: Json) -> None:
        """Write the spec anew before the run is started: what is no part of its id, as places of files, may differ."""
        write_json(self.path / "spec.json", spec)
        self.plan(spec)

    def claim(self, wait_s: float = 0) -> FileLock | None:
        """Take the run for this process until `release()`, or its death; None where another process has it.

        It holds between machines that share the folder, as far as the file system's locks (`flock`) do.
        """
        place = self.path.parent / ".claims"
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place / f"{self.run_id}.lock")
        try:
            lock.acquire(timeout=wait_s, poll_interval=0.5)
        except Timeout:
            return None
        return lock

    def begin(self) -> None:
        """Mark the run as running in this process.

        What an attempt left that was interrupted, or that failed for a reason beside the run itself, stays: the worker
        goes on from it. Of any other attempt all is removed.
        """
        before = read_json(self.path / "status.json")
        goes_on = (
            before["status"] in ("running", "interrupted") or before["reason"] in TRANSIENT_FAILURES
        )
        kept = ("checkpoint", "eval.jsonl", "log.txt") if goes_on else ()
        for path in self.path.iterdir():
            steps = goes_on and path.name.startswith("steps.")
            if path.name not in ("spec.json", "status.json", *kept) and not steps:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._write_status(
            status="running",
            reason=None,
            message=None,
            started_at=now(),
            ended_at=None,
            host=platform.node(),
            pid=os.getpid(),
            pid_started=psutil.Process().create_time(),
            attempts=before.get("attempts", 0) + 1 if goes_on else 1,
        )

    def beat(self) -> None:
        """Show that the run is alive, where nothing else of it grows: its status was "last changed" now."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.path / "status.json")

    def last_activity(self) -> float:
        """Return when anything in the run's folder last changed, seconds since the epoch."""
        times = [0.0]
        for path in (self.path, *self.path.rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # written beside and renamed meanwhile
                times.append(path.lstat().st_mtime)
        return max(times)

    def end(self, status: Status, reason: Reason | None = None, message: str | None = None) -> None:
        """Mark the run as ended: `done`, `failed` with a reason, or `interrupted`."""
        before = read_json(self.path / "status.json")
        self._write_status(
            **before | {"status": status, "reason": reason, "message": message, "ended_at": now()}
        )

    def _write_status(self, **fields: Any) -> None:
        write_json(self.path / "status.json", {"schema_version": SCHEMA_VERSION} | fields)

    # -- what the run writes ---------------------------------------------------------------------------------------

    def steps_file(self, rank: int) -> Lines:
        """Open the file to which `rank` appends its steps."""
        return Lines(self.path / f"steps.rank{rank}.jsonl")

    def eval_file(self) -> Lines:
        """Open the file to which rank 0 appends the evaluations."""
        return Lines(self.path / "eval.jsonl")

    def flush(self, rank: int) -> None:
        """Put on disk what `rank` has appended so far."""
        for name in (f"steps.rank{rank}.jsonl", "eval.jsonl"):
            with contextlib.suppress(FileNotFoundError), open(self.path / name, "rb") as file:
                os.fsync(file.fileno())

    def truncate_steps(self, rank: int, n_steps: int) -> None:
        """Keep the first `n_steps` steps that `rank` has recorded."""
        _cut(self.path / f"steps.rank{rank}.jsonl", n_steps)

    def truncate_evals(self, n_evals: int) -> None:
        """Keep the first `n_evals` evaluations."""
        _cut(self.path / "eval.jsonl", n_evals)

    def write_env(self, env: Json) -> None:
        """Record what the run ran on."""
        write_json(self.path / "env.json", env)

    def write_probes(self, probes: Json) -> None:
        """Record what the probes measured."""
        write_json(self.path / "probes.json", probes)

    def trace_path(self, rank: int) -> Path:
        """The file with `rank`'s Chrome trace of one step; absent where none was asked for."""
        return self.path / f"trace.rank{rank}.json.gz"

    @property
    def log_path(self) -> Path:
        """The file that takes all that the ranks print."""
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints: `step-<n>/`, and links to the newest and the best of them."""
        return self.path / "checkpoint"

    @property
    def newest_checkpoint(self) -> Path:
        """The link to the newest checkpoint; absent where the run has none."""
        return self.checkpoints / "newest"

    @property
    def best_checkpoint(self) -> Path:
        """The link to the checkpoint with the lowest validation loss; absent where no loss was known."""
        return self.checkpoints / "best"

    # -- what the report reads -------------------------------------------------------------------------------------

    def steps(self) -> Steps:
        """Merge the ranks' step files; only steps that every rank has recorded.

        Raises:
            StoreError: a line is no JSON object.
            KeyError, ValueError, TypeError: it has not what a step must have.
        """
        ranks = [read_lines(path) for path in sorted(self.path.glob("steps.rank*.jsonl"))]
        n_steps = min(map(len, ranks), default=0)
        first = ranks[0][:n_steps] if ranks else []
        columns = (
            np.array([_STEP(line) for line in first], dtype=float).reshape(-1, len(_COLUMNS)).T
        )  # None: NaN
        step, loss, tokens, grad_norm, lr, warmup = (column.copy() for column in columns)
        if not np.isfinite([step, tokens]).all():
            raise ValueError("a step has no number, or no tokens")
        step_s = [[line["step_s"] for line in rank[:n_steps]] for rank in ranks]
        return Steps(
            step=step.astype(int),
            loss=loss,
            step_s=np.max(np.array(step_s, dtype=float), axis=0) if ranks else np.zeros(0),
            tokens=tokens.astype(int),
            grad_norm=grad_norm,
            lr=lr,
            warmup=warmup.astype(bool),
        )

    def evals(self) -> list[Json]:
        """Return the evaluations in order: step, val_loss (nats per token), bits_per_byte, train_s, eval_s."""
        return read_lines(self.path / "eval.jsonl")

    def last_step(self) -> Json | None:
        """Return the newest whole line of rank 0's steps, reading only the file's end."""
        try:
            with open(self.path / "steps.rank0.jsonl", "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                lines = file.read().split(b"\n")[:-1]
            line = orjson.loads(lines[-1]) if lines else None
            return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None
        except (FileNotFoundError, ValueError):
            return None

    def log_tail(self, n_lines: int = 20) -> list[str]:
        """Return the last lines of what the ranks printed."""
        try:
            return self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[
                -n_lines:
            ]
        except FileNotFoundError:
            return []


def _alive(status: Json) -> bool:
    if status.get("host") != platform.node():
        return True  # another machine's process: no way to tell from here
    try:
        process = psutil.Process(status["pid"])
        same = abs(process.create_time() - status["pid_started"]) < 1
        return (
            same and process.status() != psutil.STATUS_ZOMBIE
        )  # dead, and nobody has asked how it ended
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class Store:
    """The results folder: `results/<study>/<run_id>/`, and what was launched when in `launches.jsonl`."""

    root: Path

    def studies(self) -> list[str]:
        """Return the names of the studies that have results."""
        return sorted(path.parent.name for path in self.root.glob("*/launches.jsonl"))

    def run(self, study: str, run_id: str) -> Run:
        """Return the run of that id, planned or not."""
        return Run(self.root / study / run_id)

    def runs(self, study: str) -> list[Run]:
        """Return all planned, running and ended runs of a study, by run id."""
        return [Run(path.parent) for path in sorted((self.root / study).glob("[!.]*/status.json"))]

    def last_change(self, study: str) -> float:
        """Return when anything of a study last changed, seconds since the epoch; 0 where there is nothing."""
        times = [run.last_activity() for run in self.runs(study)]
        with contextlib.suppress(FileNotFoundError):
            times.append((self.root / study / "launches.jsonl").stat().st_mtime)
        return max(times, default=0.0)

    def record_launch(self, study: str, launch: Json) -> None:
        """Append what was asked for and in which order it runs."""
        (self.root / study).mkdir(parents=True, exist_ok=True)
        lines = Lines(self.root / study / "launches.jsonl")
        lines.append({"at": now()} | launch)
        lines.close()

    def launches(self, study: str) -> list[Json]:
        """Return the launches of a study, oldest first."""
        return read_lines(self.root / study / "launches.jsonl")

    def prune_pending(self, study: str, keep: set[str]) -> None:
        """Drop planned runs that the study no longer asks for; what has started is never dropped."""
        for run in self.runs(study):
            if run.run_id not in keep and run.status["status"] == "pending":
                shutil.rmtree(run.path)
