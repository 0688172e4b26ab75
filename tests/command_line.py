"""Run the command line in a folder of its own, in this process or in one of its own."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import psutil
import pytest

from harness.cli.app import main
from harness.errors import ExitCode
from harness.results import checkpoints
from harness.results.files import absolute
from harness.results.run import Run
from harness.results.store import Store

STUDY = """
[study]
name = "s"
seeds = [0]
variant_paths = ["mine"]

[model]
n_layer = 2
n_head = 4
n_embd = 32
seq_len = 32
dropout = 0.1

[data]
corpus = "text.txt"

[train]
steps = 8
tokens_per_step = 512
micro_batch_size = 4
lr = 1e-2
eval_every = 4
deterministic = true
device = "cpu"

[axes]
positional = {positional}
attention = {attention}
parallelism = {parallelism}
"""
# Outcomes of the checks of models, by their content: tests need not repeat each other's.
CHECKS = "preflight"
SHARED_CHECKS = Path(tempfile.gettempdir(), f"ablations-tests-{os.getuid()}")
LEAK_LIMIT_S = 300  # processes that live longer after their launcher are not going to end


@dataclass(frozen=True)
class Finished:
    """What a command printed."""

    stdout: str
    stderr: str


class Harness:
    """The command line in a folder of its own.

    A call runs a command in this process, whose fork server all calls share. `process` and `start`
    run one in a process of its own. `stop` ends the processes that were started.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = os.environ | {"ABLATIONS_CACHE": str(folder / "cache"), "COLUMNS": "200"}
        SHARED_CHECKS.mkdir(exist_ok=True)
        (folder / "cache").mkdir()
        (folder / "cache" / CHECKS).symlink_to(SHARED_CHECKS)
        self.processes: list[subprocess.Popen] = []

    def study(
        self, positional: str, attention: str = '["mha"]', parallelism: str = '["single"]'
    ) -> Path:
        """Write a study of these variants and its corpus; return the study's path."""
        lines = [
            f"the {adjective} {noun} sees {number}.\n"
            for adjective in ("old", "red", "sad")
            for noun in ("cat", "owl")
            for number in range(200)
        ]
        (self.folder / "text.txt").write_text("".join(lines))
        path = self.folder / "study.toml"
        text = STUDY.replace("{positional}", positional).replace("{attention}", attention)
        path.write_text(text.replace("{parallelism}", parallelism))
        for axis in ("positional", "parallelism"):
            (self.folder / "mine" / axis).mkdir(parents=True, exist_ok=True)
        return path

    def variant(self, name: str, body: str) -> None:
        """Add a positional variant whose `embed` has this body in the processes that train."""
        (self.folder / f"mine/positional/{name}.py").write_text(
            "import os, signal, time\n"
            "import torch\n"
            "from variants.base import Positional\n\n\n"
            "class V(Positional):\n"
            "    def embed(self, x, positions):\n"
            "        if x.is_meta or 'RANK' not in os.environ: return x\n"
            f"        {body}\n"
            "        return x\n"
        )

    def slow_variant(self, seconds: float = 0.3, later_s: float | None = None) -> Path:
        """Add the variant `slow`, which sleeps in training until the returned file exists.

        After four calls it sleeps for `later_s`: a test has time to stop or kill its run.
        """
        fast = self.folder / "fast"
        self.variant(
            "slow",
            "self.calls = getattr(self, 'calls', 0) + self.training\n"
            f"        if self.training and not os.path.exists({str(fast)!r}):\n"
            f"            time.sleep({seconds} if self.calls <= 4 else {later_s or seconds})",
        )
        return fast

    def start(
        self, *arguments: object, settings=(), where=(), program=("-m", "harness")
    ) -> subprocess.Popen:
        """Start a command in a process group of its own, with an option for each override."""
        process = subprocess.Popen(
            [sys.executable, *program, *as_options(arguments, settings, where)],
            cwd=self.folder,
            env=self.env,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def process(self, *arguments: object, code: int = 0, **options) -> Finished:
        """Run a command in a process of its own."""
        process = self.start(*arguments, **options)
        finished = Finished(*process.communicate())
        check(process.returncode, code, finished.stderr)
        return finished

    def __call__(self, *arguments: object, code: int = 0, settings=(), where=()) -> Finished:
        """Run a command in this process."""
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self.folder),
            mock.patch.dict(os.environ, self.env),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            restored_signals(),
            pytest.raises(SystemExit) as end,
        ):
            main(as_options(arguments, settings, where))
        if end.value.code == ExitCode.INTERRUPTED:
            raise KeyboardInterrupt
        check(end.value.code, code, err.getvalue())
        return Finished(out.getvalue(), err.getvalue())

    def runs(self) -> list[Run]:
        """Return the runs of the study."""
        return Store(self.folder / "results").runs("s")

    def wait_for_steps(self, process: subprocess.Popen, n_steps: int = 1, n_saved: int = 0) -> Run:
        """Wait until a run of `process` has recorded so many steps, and saved so many."""
        while process.poll() is None:
            for run in self.runs():
                if len(run.steps()) >= n_steps and n_saved_steps(run) >= n_saved:
                    return run
            time.sleep(0.05)
        raise AssertionError(process.communicate()[1])

    def stop(self) -> None:
        """Kill the process groups that are left, e.g. after Ctrl-C in pytest."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def call(*command: object) -> str:
    """Run a command in this process, which must succeed; return what it printed."""
    out = io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
        pytest.raises(SystemExit) as end,
    ):
        main([str(argument) for argument in command])
    assert end.value.code == 0, out.getvalue()
    return out.getvalue()


def as_options(arguments, settings, where) -> list[str]:
    overrides = [f"--set={setting}" for setting in settings]
    overrides += [f"--where={condition}" for condition in where]
    return [*map(str, arguments), *overrides]


def check(code: int | str | None, expected: int, stderr: str) -> None:
    assert code == expected, stderr
    assert "Traceback" not in stderr or code == ExitCode.SOME_FAILED, stderr


@contextlib.contextmanager
def restored_signals() -> Iterator[None]:
    """Restore the signal handlers that a launch replaces, so that Ctrl-C ends pytest."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def n_saved_steps(run: Run) -> int:
    """Return the number of steps from which a run resumes if it is killed now."""
    return checkpoints.n_steps(absolute(run.newest_checkpoint))


def command_process(pid: int) -> psutil.Process:
    """Return the process that runs a command: the started one, or its child with the variants."""
    started = psutil.Process(pid)
    words = started.cmdline()
    return next((child for child in started.children() if child.cmdline() == words), started)


def all_end(processes) -> bool:
    """Wait until all of the processes have ended; return False if one does not."""
    deadline = time.monotonic() + LEAK_LIMIT_S
    while time.monotonic() < deadline:
        if not any(is_alive(process) for process in processes):
            return True
        time.sleep(0.05)
    return False


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
