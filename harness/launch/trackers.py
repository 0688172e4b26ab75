"""Forward the metrics of runs to experiment trackers while they train.

Each tracker has a process of its own, which reads the files of the runs: nothing in the training
knows of it, and a tracker that fails or hangs affects neither the runs nor another tracker.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import orjson

from harness.launch.one_run import StartRun
from harness.results.records import LaunchSpec
from harness.results.run import Run
from harness.results.store import Store

FOLLOWER = "harness.export.follow"  # named, never imported here
END_TIMEOUT_S = 65.0  # more than the time after which a follower ends itself

Log = Callable[[str], None]


class Trackers:
    """Follow the runs of a launch: `with Trackers(...) as trackers:`, then `trackers.followed`.

    The tracker NAME writes to `exports/<study>/NAME`, and what its process prints to
    `exports/<study>/NAME.log`.
    """

    def __init__(
        self, names: Sequence[str], store: Store, study: str, log: Log, out: Path = Path("exports")
    ) -> None:
        self._folder = out / study
        self._followers = [_Follower(name, store, study, self._folder, log) for name in names]

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, *_: object) -> None:
        for follower in self._followers:
            follower.close_input()
        for follower in self._followers:
            follower.wait()  # all at once: their inputs are closed

    def followed(self, start: StartRun) -> StartRun:
        """Return the function that starts a run, after it has named the run to the trackers."""

        def start_followed(run: Run, launch: LaunchSpec) -> None:
            self.name_run(run, run.status.started_at)
            start(run, launch)

        return start_followed if self._followers else start

    def name_run(self, run: Run, earlier_start: str | None) -> None:
        """Name a run that starts to the trackers; its earlier attempt started at that time."""
        for follower in self._followers:
            follower.name_run(run, earlier_start)


class _Follower:
    """The process of one tracker, which starts with the first run."""

    def __init__(self, name: str, store: Store, study: str, folder: Path, log: Log) -> None:
        self._name = name
        self._folder = folder
        self._log = log
        self._has_warned = False
        arguments = [name, str(store.root), study, str(folder / name)]
        self._command = [sys.executable, "-m", FOLLOWER, *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()  # runs start in several threads

    def name_run(self, run: Run, earlier_start: str | None) -> None:
        """Write the id of the next run, unless the process has ended or does not read."""
        line = orjson.dumps([run.run_id, earlier_start]) + b"\n"
        try:
            with self._lock:
                if self._process is None:
                    self._process = self._start()
            assert self._process.stdin is not None
            os.write(self._process.stdin.fileno(), line)
        except OSError as error:
            self._warn(f"{run.run_id}: {error}")

    def close_input(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def wait(self) -> None:
        """Wait until the process has written the end of the last run."""
        if self._process is None:
            return
        try:
            code = self._process.wait(END_TIMEOUT_S)
            self._reader.join()
            if code:
                self._warn(f"its process ended with exit code {code}")
        except subprocess.TimeoutExpired:
            self._warn(f"its process did not end within {END_TIMEOUT_S:g} s")
        finally:
            self._process.kill()  # no effect if it has ended

    def _start(self) -> "subprocess.Popen[bytes]":
        self._folder.mkdir(parents=True, exist_ok=True)
        self._log(f"logging to {self._name} in {self._folder / self._name}")
        with open(self._folder / f"{self._name}.log", "wb") as log:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the launcher
            )
        assert process.stdin is not None and process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        self._reader = threading.Thread(
            target=self._read_warnings, args=(process.stdout,), daemon=True
        )
        self._reader.start()
        return process

    def _read_warnings(self, output: IO[bytes]) -> None:
        for line in output:
            self._warn(line.decode(errors="replace").strip())

    def _warn(self, reason: str) -> None:
        """Log the first failure."""
        if self._has_warned:
            return
        self._has_warned = True
        self._log(
            f"WARNING: {self._name} is incomplete ({reason}); the runs are not affected. Details: "
            f"{self._folder / self._name}.log; `export --to {self._name}` writes all runs"
        )
