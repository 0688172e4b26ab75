"""The process that has imported torch, from which ranks are forked in milliseconds."""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from functools import cache
from multiprocessing import connection, forkserver, popen_forkserver, resource_tracker
from pathlib import Path

from harness.launch.ranks import has_returned
from harness.provenance.contents import Contents, shipped_contents

WORKER = "harness.training.main"  # named, never imported here
PRELOADED = (
    "harness.cli.app",
    WORKER,
    "torch._dynamo",  # `use_deterministic_algorithms` imports it, which takes 0.7 s
)
# The fork server survives these, which a batch system sends to all processes of a job: with it, all
# ranks of this process would end. A rank inherits the mask. It unblocks what it handles once it
# has its handlers, so that no signal before that is lost.
BLOCKED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGQUIT)
# Instead of exit codes, which are below 256:
NO_RESULT = 256  # a rank ended with code 0 before it returned
NO_SERVER = 257  # the fork server ended, which would know the exit code

_launch = getattr(popen_forkserver.Popen, "_launch")  # noqa: B009 - a method
_exit_codes = threading.Lock()
_folders: list[Path] = []  # of `Ranks`, of the launches of this process


class ForkServerKilled(Exception):
    """The fork server was killed while it started a process."""


def start_fork_server() -> None:
    """Start the fork server, which imports torch in the background; no effect if it runs."""
    loaded_code()
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    setattr(popen_forkserver.Popen, "poll", _poll)  # noqa: B010 - a method
    setattr(popen_forkserver.Popen, "_launch", _launch_or_raise)  # noqa: B010 - a method
    resource_tracker.ensure_running()  # it unblocks SIGTERM in this thread when it starts
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@cache
def loaded_code() -> Contents:
    """Return the hashes of the code from before the fork server has loaded it."""
    return shipped_contents()


def block_signals() -> None:
    """Block the signals in this thread, also in a fork server that it starts again."""
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)


def silence_engine() -> None:
    """Silence the loggers of torchrun's engine: status.json and log.txt report the same."""
    for name in logging.root.manager.loggerDict:  # each has a level of its own
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def expect_results(folder: Path) -> Iterator[None]:
    """Report a rank of `folder` that ends with code 0 before it has returned as `NO_RESULT`.

    torchrun's engine waits without a limit for the result of a process that ended with code 0.
    """
    _folders.append(folder)
    try:
        yield
    finally:
        _folders.remove(folder)


def _launch_or_raise(self: popen_forkserver.Popen, process: multiprocessing.Process) -> None:
    """Start a process as the replaced method does, with an error of its own for a lost server.

    Raises:
        ForkServerKilled: the fork server ended meanwhile.
    """
    try:
        _launch(self, process)
    except (ConnectionError, EOFError) as error:
        raise ForkServerKilled from error


def _poll(self: popen_forkserver.Popen, flag: int = os.WNOHANG) -> int | None:
    """Return the exit code of a process, None while it runs.

    Replaces a method that is not safe with several launches: `Process.start` polls the processes of
    all threads, and the second of two threads that read an exit code reports 255. See also
    `expect_results`.
    """
    if self.returncode is None:
        timeout = 0 if flag == os.WNOHANG else None
        if not connection.wait([self.sentinel], timeout):
            return None
        with _exit_codes:
            if self.returncode is None:
                try:
                    self.returncode = forkserver.read_signed(self.sentinel)
                except (OSError, EOFError):  # the fork server is gone
                    self.returncode = NO_SERVER
                if self.returncode == 0 and not all(
                    has_returned(folder, self.pid) for folder in list(_folders)
                ):
                    self.returncode = NO_RESULT
    return self.returncode
