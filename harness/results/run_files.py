"""The files of one run: their paths, the records in them, and the files that grow as it trains."""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import orjson
from pydantic import ValidationError

from harness.errors import ClaimLost, StoreError
from harness.results.checkpoints import n_steps
from harness.results.claims import Fence
from harness.results.files import (
    JsonLinesWriter,
    check_own_folder,
    crc32,
    open_file,
    open_to_append,
    read_lines,
    read_optional_record,
    read_record,
    replace,
    truncate_lines,
    write_json,
)
from harness.results.records import (
    Environment,
    EvalRecord,
    ExampleScores,
    ImportedRun,
    ProbeResults,
    RunSpec,
    StepRecord,
)

if TYPE_CHECKING:
    from harness.results.steps import Steps

TIMING = ".timing"  # folder of the timing runs of a study, which `Store.runs` leaves out
LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 2**20
LAST_LINE_BYTES = 4096  # more than a line of the step file takes


@dataclass(frozen=True)
class RunFiles:
    """The folder of one run: `results/<study>/<run_id>/`.

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
        return os.path.lexists(self.path / "imported.json")  # also as a link that leads nowhere

    @property
    def imported(self) -> ImportedRun:
        """The values of a run of another trainer, which has no spec."""
        return read_record(self.path / "imported.json", ImportedRun)

    @property
    def has_results(self) -> bool:
        """Whether the folder has files of an attempt, which a run that is pending has not."""
        names = ("probes.json", "eval.jsonl", "checkpoint", "steps.rank0.jsonl")
        return any(os.path.lexists(self.path / name) for name in names)

    def check_folder(self) -> None:
        """Check that the files of the run are in the folder of its study.

        Raises:
            StoreError: its folder, or the one of all timing runs, is a link or no folder.
        """
        check_own_folder(self.path)
        if self.path.parent.name == TIMING:
            check_own_folder(self.path.parent)

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
        return read_optional_record(self.path / "env.json", Environment)

    @property
    def probes(self) -> ProbeResults | None:
        """The measurements; None before the run is done."""
        return read_optional_record(self.path / "probes.json", ProbeResults)

    @property
    def examples(self) -> ExampleScores | None:
        """The values of metrics by example; None unless the run was evaluated on tasks of such."""
        return read_optional_record(self._examples_path, ExampleScores)

    @property
    def _examples_path(self) -> Path:
        return self.path / "examples.json"

    # -- claims -----------------------------------------------------------------------------------

    @property
    def claims(self) -> Path:
        """The folder of the run's claims."""
        return self.path.parent / ".claims" / self.run_id

    @property
    def _fence(self) -> Fence | None:
        return None if self.claim_number is None else Fence(self.claims, self.claim_number)

    def check_claim(self) -> None:
        """Check before a write that no other process has taken a fenced run over.

        Raises:
            ClaimLost: one has.
        """
        if self._fence is not None:
            self._fence.check()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Read files before they are replaced; a successor may have removed them meanwhile.

        Raises:
            ClaimLost: another process has taken a fenced run over, and a file is missing.
        """
        try:
            yield
        except FileNotFoundError:
            self.check_claim()
            raise

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
        log = open_to_append(path)
        self._check_opened(lambda: os.close(log))
        return log

    def _check_opened(self, close: Callable[[], None]) -> None:
        """Check the claim after a file is opened: one that a successor opens may be opened too."""
        try:
            self.check_claim()
        except ClaimLost:
            close()
            raise

    def curves(self, rank: int) -> list[Path]:
        """Return the files to which `rank` appends."""
        return [self.steps_path(rank), *([self.evals_path] if rank == 0 else [])]

    def curve_sizes(self, rank: int) -> dict[Path, int]:
        """Return their present numbers of bytes, without files that are missing."""
        sizes = {}
        for path in self.curves(rank):
            with contextlib.suppress(FileNotFoundError):
                sizes[path] = path.stat().st_size
        return sizes

    def flush(self, rank: int) -> None:
        """Flush the lines that `rank` has appended to disk."""
        for path in self.curves(rank):
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                os.fsync(file.fileno())

    def checksums_of(self, rank: int) -> dict[str, int]:
        """Return the CRC-32 of the files of results that `rank` has written, but of probes.json.

        Raises:
            OSError: one cannot be read.
        """
        return self._checksums([*self.curves(rank), *([self._examples_path] if rank == 0 else [])])

    def checksums(self) -> dict[str, int]:
        """Return the same of all files that there are.

        Raises:
            OSError: one cannot be read.
        """
        return self._checksums([*self._steps_paths(), self.evals_path, self._examples_path])

    def _checksums(self, paths: list[Path]) -> dict[str, int]:
        paths = [path for path in paths if path != self._examples_path or os.path.lexists(path)]
        return {path.name: crc32(path) for path in paths}

    def truncate_steps(self, rank: int, n_steps: int) -> None:
        """Keep the first `n_steps` steps that `rank` has recorded."""
        with self.reading():
            truncate_lines(self.steps_path(rank), n_steps, self._fence)

    def truncate_evals(self, n_evals: int) -> None:
        """Keep the first `n_evals` evaluations."""
        with self.reading():
            truncate_lines(self.evals_path, n_evals, self._fence)

    def write_env(self, env: Environment) -> None:
        """Record machine, software and commit."""
        write_json(self.path / "env.json", env, self._fence)

    def write_probes(self, probes: ProbeResults) -> None:
        """Record the measurements."""
        write_json(self.path / "probes.json", probes, self._fence)

    def write_examples(self, examples: ExampleScores) -> None:
        """Record the values of metrics by example."""
        write_json(self._examples_path, examples, self._fence, compact=True)

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
        folders = [folder for folder in self.checkpoints.glob("step-*") if n_steps(folder) > 0]
        return max(folders, key=n_steps, default=self.newest_checkpoint)

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

        return read_steps(self._steps_paths())

    def _steps_paths(self) -> list[Path]:
        return sorted(self.path.glob("steps.rank*.jsonl"))

    def evals(self) -> list[EvalRecord]:
        """Return the evaluations in order."""
        return read_lines(self.evals_path, EvalRecord)

    def last_step(self) -> StepRecord | None:
        """Return the newest whole line of rank 0's steps; reads only the end of the file."""
        try:
            with open_file(self.steps_path(0)) as file:
                lines = _end_of(file, LAST_LINE_BYTES).split(b"\n")[:-1]
        except OSError:  # missing, or damaged: `steps` says so
            return None
        if not lines:
            return None
        try:
            return StepRecord.model_validate(orjson.loads(lines[-1]))
        except (ValueError, ValidationError):
            return None

    def log_tail(self, n_lines: int = LOG_TAIL_LINES) -> list[str]:
        """Return the last lines of the ranks' output, or why they cannot be read."""
        try:
            with open_file(self.log_path) as file:
                content = _end_of(file, LOG_TAIL_BYTES)
        except FileNotFoundError:
            return []
        except OSError as error:
            return [f"{self.log_path}: unreadable ({error})"]
        return content.decode("utf-8", errors="replace").splitlines()[-n_lines:]


def _end_of(file: BinaryIO, n_bytes: int) -> bytes:
    """Return the last bytes of a file."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - n_bytes))
    return file.read()
