"""Crash a run at each of its file-system operations, and start it again.

The operations are those of one undisturbed run (`crash_hook` counts them).
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import crash_hook

from harness.errors import ExitCode
from harness.results.run import Run
from harness.results.store import Store

STUDY = """
[study]
name = "crash"
seeds = [0]

[model]
n_layer = 1
n_head = 2
n_embd = 16
seq_len = 16
dropout = 0.1

[data]
corpus = "text.txt"

[train]
steps = 4
tokens_per_step = 128
micro_batch_size = 2
eval_every = 2
deterministic = true
device = "cpu"

[launch]
checkpoint_every = 1

[axes]
positional = ["learned"]
parallelism = [{parallelism}]
"""
PARALLELISMS = {
    "single": '"single"',
    "ddp": '{ variant = "ddp", nproc = 2 }',
    "fsdp": '{ variant = "fsdp", nproc = 2 }',
}
LAUNCHER = Path(__file__).with_name("crash_launcher.py")
MAX_STARTS = 3  # after the crash
MAX_EQUAL = 8  # operations of one place


@dataclass(frozen=True)
class Operation:
    """A file-system operation of a run; `number` counts those of its role, thread and area."""

    role: str
    thread: str
    area: str
    number: int
    kind: str
    place: str


@dataclass(frozen=True)
class Point:
    """Where to crash: before an operation, after it, or after a part of it (`torn`).

    A crash of the `process` leaves the other processes, which notice it; one of the `machine` ends
    all of them.
    """

    operation: Operation
    side: str
    scope: str

    def __str__(self) -> str:
        operation = self.operation
        where = f"{operation.role}, {operation.thread} {operation.number}"
        return f"{self.scope} {self.side} {operation.kind} of {operation.place} ({where})"


def points(operations: Sequence[Operation]) -> list[Point]:
    """Return the points around the operations: what one leaves is what the next one finds.

    Each state of the files is left by one crash of the process and by one of the machine. Of
    operations on many equal files, as those of an archive, the first and the last one count.
    """
    equal: dict[tuple[str, ...], list[Operation]] = {}
    for operation in operations:
        key = (operation.role, operation.thread, operation.kind, operation.place)
        equal.setdefault(key, []).append(operation)
    found = []
    for group in equal.values():
        chosen = group if len(group) <= MAX_EQUAL else [group[0], group[-1]]
        for operation in chosen:
            found.append(Point(operation, "before", "process"))
            found.append(Point(operation, "after", "machine"))
            if operation.kind in crash_hook.TORN:
                found.append(Point(operation, "torn", "machine"))
    return found


def sample(operations: Sequence[Operation], n_points: int, random: Random) -> list[Point]:
    """Return `n_points` random points, of all kinds of operations of launcher and ranks in turn."""
    by_kind: dict[tuple[bool, str], list[Point]] = {}
    for point in points(operations):
        key = (point.operation.role == "launcher", point.operation.kind)
        by_kind.setdefault(key, []).append(point)
    groups = list(by_kind.values())
    for group in groups:
        random.shuffle(group)
    random.shuffle(groups)
    in_turn = itertools.chain(*itertools.zip_longest(*groups))
    return [point for point in in_turn if point is not None][:n_points]


class Launcher:
    """Starts the command line in `folder`, each time in a process that has loaded it already.

    With `with`, it ends.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in (*crash_hook.WATCHED, "tmp"):
            (folder / name).mkdir(parents=True)
        lines = [f"the cat sees {number}.\n" for number in range(400)]
        (folder / "text.txt").write_text("".join(lines))
        for name, parallelism in PARALLELISMS.items():
            (folder / f"{name}.toml").write_text(STUDY.replace("{parallelism}", parallelism))
        search_path = [str(LAUNCHER.parent), os.environ.get("PYTHONPATH", "")]  # of the fork server
        with open(folder / "output.txt", "w") as output:
            self._process = subprocess.Popen(
                [sys.executable, LAUNCHER, *_arguments("single", Store(folder / "stores/0"))],
                cwd=folder,
                env=os.environ
                | {
                    crash_hook.FOLDER: str(folder),
                    "ABLATIONS_CACHE": str(folder / "cache/0"),
                    "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": os.pathsep.join(filter(None, search_path)),
                    "TMPDIR": str(folder / "tmp"),
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )
        self._n_stores = 0

    def __enter__(self) -> "Launcher":
        assert self._process.stdout.readline() == "ready\n", self._output()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def new_store(self) -> Store:
        """Return a store that does not exist."""
        self._n_stores += 1
        return Store(self.folder / "stores" / str(self._n_stores))

    def run(self, parallelism: str, store: Store, cache: Path, *options: str) -> int:
        """Run the study of a parallelism; return the exit code."""
        request = {
            "arguments": [*_arguments(parallelism, store), *options],
            "output": f"{store.root}.txt",
            "cache": str(cache),
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def _output(self) -> str:
        return (self.folder / "output.txt").read_text()


def _arguments(parallelism: str, store: Store) -> list[str]:
    return ["run", f"{parallelism}.toml", "--results", str(store.root)]


@dataclass
class CrashedRuns:
    """Runs of one parallelism, each in a results folder of its own.

    If it `is_foreground`, the training waits for each checkpoint.
    """

    launcher: Launcher
    parallelism: str
    is_foreground: bool

    def __post_init__(self) -> None:
        self._folder = self.launcher.folder
        self._expected: dict[str, object] = {}

    def operations(self) -> list[Operation]:
        """Return the operations of a run without a crash, which fills the caches as well."""
        log = self._folder / crash_hook.OPERATIONS
        log.touch()
        store = self.launcher.new_store()
        code = self._run(store, self._folder / "cache" / self._name)
        assert code == ExitCode.DONE, _output(store)
        operations = [Operation(**json.loads(line)) for line in log.read_text().splitlines()]
        log.unlink()
        self._expected = result(store)
        return operations

    def crash(self, point: Point) -> list[str]:
        """Crash a run at a point, and run until it is done; return the statuses on the way.

        Raises:
            AssertionError: the point was not reached, the runs after the crash do not end it, or
                the result is another one.
        """
        store = self.launcher.new_store()
        is_in_cache = point.operation.area == "cache"  # then the caches are empty
        cache = self._folder / "cache" / (store.root.name if is_in_cache else "0")
        armed = self._folder / crash_hook.ARMED
        fired = self._folder / crash_hook.FIRED
        fired.unlink(missing_ok=True)
        operation = point.operation.__dict__ | {"side": point.side, "scope": point.scope}
        del operation["place"]
        armed.write_text(json.dumps(operation))
        self._run(store, cache)
        armed.unlink()
        assert fired.exists(), f"not reached: {point}"
        statuses = []
        for _ in range(MAX_STARTS):
            outcomes = [run.outcome for run in store.runs("crash")]
            statuses += [f"{outcome.status} {outcome.reason}" for outcome in outcomes]
            has_failed = any(outcome.status == "failed" for outcome in outcomes)
            code = self._run(store, cache, *(["--retry-failed"] if has_failed else []))
            if code == ExitCode.DONE:
                break
        assert code == ExitCode.DONE, f"{point}: {statuses}\n{_output(store)}"
        found = result(store)
        for name, value in self._expected.items():
            assert found[name] == value, f"{point}: {statuses}: {name}\n{_output(store)}"
        shutil.rmtree(store.root)
        return statuses

    @property
    def _name(self) -> str:
        return f"{self.parallelism}-{'foreground' if self.is_foreground else 'background'}"

    def _run(self, store: Store, cache: Path, *options: str) -> int:
        flag = self._folder / crash_hook.FOREGROUND
        flag.unlink(missing_ok=True)
        if self.is_foreground:
            flag.touch()
        return self.launcher.run(self.parallelism, store, cache, *options)


def _output(store: Store) -> str:
    return Path(f"{store.root}.txt").read_text()


def result(store: Store) -> dict[str, object]:
    """Return all that a crash must not change: values, weights, and the names of the files."""
    (run,) = store.runs("crash")
    steps = run.steps()
    probes = run.probes
    assert probes is not None
    return {
        "status": run.status.status,
        "steps": [
            column.tolist() for column in (steps.step, steps.loss, steps.grad_norm, steps.lr)
        ],
        "evals": [(line.step, line.val_loss, line.bits_per_byte) for line in run.evals()],
        "weights": _weights(run),
        "files": sorted(_files(store.root)),
        "launches": len(store.launches("crash")) > 0,
    }


def _weights(run: Run) -> dict[str, tuple[str, bytes]]:
    links = {"newest": run.newest_checkpoint, "best": run.best_checkpoint}
    return {
        name: (os.readlink(link), (link / "model.safetensors").read_bytes())
        for name, link in links.items()
    }


def _files(root: Path) -> Iterator[str]:
    """Yield the files of a store without claims, whose numbers grow with each start.

    Temporary files that a crash leaves in an archive, which no reader sees, do not count.
    """
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.relpath(Path(folder, name), root)
            is_left = "archive" in path and name.endswith(".tmp")
            if ".claims" not in path and not is_left:
                yield path
