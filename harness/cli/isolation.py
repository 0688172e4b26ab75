"""Run a command that executes the user's variants in a child process, which the command watches.

The code of a variant may end its process: `os._exit(0)`, a signal, a crash of a library. The exit
code would be that of the command, which reads as success. The child is forked before PyTorch is
loaded, so that this costs milliseconds; commands without variants of the user have no child.
"""

import contextlib
import math
import mmap
import os
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from harness.cli.output import log
from harness.errors import ExitCode, UserError
from harness.launch.parent import parent_death_signal
from variants import activity
from variants.errors import loaded_files

FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
FROM_KERNEL = 0x80  # si_code of a signal that a terminal sends to all processes of its group
POLL_S = 0.2
GROUP_S = 0.5  # between the signals of one that all processes of a group get
END_S = 10.0  # for the child to end, after its command has
NOTICE_S = 120.0  # of one activity of a variant, before it is shown
LIMIT_S = 3600.0  # of one activity of a variant
NOTE_BYTES = 4096


class _Note:
    """A text in memory that two processes share."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, NOTE_BYTES)

    def write(self, text: str) -> None:
        data = text.encode(errors="replace")[: NOTE_BYTES - 2]
        self._memory[: len(data) + 1] = data + b"\0"

    def read(self) -> str:
        return self._memory[:].partition(b"\0")[0].decode(errors="replace")


class _Child:
    """The present process, if it is the child: it answers with the exit code of the command."""

    def __init__(self, writer: int, note: _Note) -> None:
        self._writer = writer
        self._note = note
        self._pid = os.getpid()
        self._exit = os._exit
        self._activity = ""
        activity.listen(self._begin)
        setattr(os, "_exit", self._end)  # noqa: B010 - a function of the library

    def answer(self, code: int) -> None:
        if os.getpid() == self._pid:
            with contextlib.suppress(OSError):  # a variant has closed it
                os.write(self._writer, b"%d\n" % code)

    def _begin(self, text: str) -> None:
        files = loaded_files()
        if text and files and ".py" not in text:
            text = f"{text} ({files})"
        self._activity = text
        if os.getpid() == self._pid:
            self._note.write(text)

    def _end(self, code: int) -> None:
        """End this process as `os._exit` does; note the line that calls it."""
        frame: FrameType = sys._getframe(1)
        if str(frame.f_globals.get("__name__")).startswith("harness."):
            self.answer(code)
        elif os.getpid() == self._pid:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            self._note.write(f"{self._activity}\n{place}")
        self._exit(code)


class _Process:
    """The present process. `may_fork`: it runs one command and ends."""

    may_fork = False
    child: _Child | None = None


def allow() -> None:
    """Let `isolate` fork: this process runs one command and ends."""
    _Process.may_fork = True


def isolate() -> None:
    """Return in a child process. The present one ends with the exit code of the child's command.

    Without effect on other systems than Linux, and in a program that calls commands as functions.

    Raises:
        SystemExit: in the present process, when the child has ended.
    """
    if not _Process.may_fork or sys.platform != "linux":
        return
    _Process.may_fork = False
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    signals, signals_writer = os.pipe()
    note = _Note()
    end_with_parent = parent_death_signal(signal.SIGKILL)
    watched = {*FORWARDED, signal.SIGCHLD}
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(writer)
        os.close(signals_writer)
        raise SystemExit(_Watch(pid, reader, signals, note).wait(watched))
    os.close(reader)
    os.close(signals)
    os.set_blocking(signals_writer, False)
    signal.set_wakeup_fd(signals_writer, warn_on_full_buffer=False)
    end_with_parent()
    if os.getppid() != parent:
        os._exit(ExitCode.INTERRUPTED)
    signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
    _Process.child = _Child(writer, note)


def isolate_study(study: Path, settings: list[str] | None) -> None:
    """Call `isolate` for a study that names folders of variants."""
    from harness.study import study_file

    if not _Process.may_fork:
        return
    try:
        file, _ = study_file.read(study, settings or ())
    except UserError:  # reading the whole study reports it
        return
    if file.study.variant_paths:
        isolate()


def run_to_end(command: Callable[[], None]) -> None:
    """Run a command; if it has become the child, answer with its exit code.

    Raises:
        SystemExit: the exit code of the command.
    """
    code: object = ExitCode.SOME_FAILED  # of an exception
    try:
        command()
        code = 0
    except SystemExit as end:
        code = end.code
        raise
    finally:
        if _Process.child is not None:
            _Process.child.answer(0 if code is None else code if isinstance(code, int) else 1)


def _signals(watched: set[signal.Signals]) -> "queue.SimpleQueue[signal.struct_siginfo]":
    """Return a queue of the blocked signals that this process gets from now on.

    CPython's `sigtimedwait` returns a signal that has not come if the process is stopped meanwhile.
    """
    signals: queue.SimpleQueue[signal.struct_siginfo] = queue.SimpleQueue()

    def wait() -> None:
        while True:
            signals.put(signal.sigwaitinfo(watched))

    threading.Thread(target=wait, daemon=True).start()
    return signals


class _Watch:
    """The process that waits for the child."""

    def __init__(self, pid: int, reader: int, signals: int, note: _Note) -> None:
        self._pid = pid
        self._reader = reader
        self._signals = signals
        self._note = note
        self._interrupted_at = -math.inf
        self._answer: int | None = None
        self._status: int | None = None

    def wait(self, watched: set[signal.Signals]) -> int:
        """Return the exit code of the command."""
        note = ""
        since = time.monotonic()
        is_shown = False
        kill_at: float | None = None
        signals = _signals(watched)
        while not self._has_ended():
            received = None
            with contextlib.suppress(queue.Empty):
                received = signals.get(timeout=POLL_S)
            self._read_signals(0.0)
            self._forward(received)
            now = time.monotonic()
            present = self._note.read()
            if present != note:
                note = present
                since = now
                is_shown = False
            self._read_answer()
            if self._answer is not None and kill_at is None:
                kill_at = now + END_S
            if kill_at is not None and now > kill_at:
                os.kill(self._pid, signal.SIGKILL)
            elif self._answer is None and note and now - since > NOTICE_S and not is_shown:
                is_shown = True
                log(f"{note} takes more than {NOTICE_S:.0f} s; Ctrl-C ends it")
            elif self._answer is None and note and now - since > LIMIT_S:
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
                log("error:", f"  {note} takes more than {LIMIT_S:.0f} s: does it end?")
                return ExitCode.INVALID
        self._read_answer()
        if self._answer is not None:
            return self._answer
        return self._report()

    def _has_ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None

    def _forward(self, received: "signal.struct_siginfo | None") -> None:
        if received is None or received.si_signo == signal.SIGCHLD:
            return
        if received.si_code == FROM_KERNEL:  # then the child has it as well
            return
        if received.si_signo == signal.SIGINT and self._is_of_group():
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, received.si_signo)

    def _is_of_group(self) -> bool:
        """Return whether the child has got Ctrl-C as well: a second one would kill the ranks."""
        deadline = time.monotonic() + GROUP_S
        while time.monotonic() - self._interrupted_at > GROUP_S:
            if not self._read_signals(deadline - time.monotonic()):
                return False
        self._interrupted_at = -math.inf
        return True

    def _read_signals(self, timeout_s: float) -> bool:
        """Note when the child got Ctrl-C; return whether it got a signal in this time."""
        if not select.select([self._signals], [], [], max(timeout_s, 0.0))[0]:
            return False
        numbers = os.read(self._signals, NOTE_BYTES)
        if signal.SIGINT in numbers:
            self._interrupted_at = time.monotonic()
        return bool(numbers)  # none if the child has ended

    def _read_answer(self) -> None:
        if self._answer is None and select.select([self._reader], [], [], 0)[0]:
            text = os.read(self._reader, 100)
            if text:
                self._answer = int(text)

    def _report(self) -> int:
        """Report that the child has ended without an answer; return the exit code."""
        assert self._status is not None
        doing, _, place = self._note.read().partition("\n")
        how = f"exit code {self._status}"
        if self._status < 0:
            how = signal.Signals(-self._status).name
        place = f"{place}: " if place else ""
        doing_what = doing or "code of a variant or of a library"
        log(
            "error:", f"  {place}{doing_what} ended the process ({how}) before the command was done"
        )
        if self._status == -signal.SIGINT:
            return ExitCode.INTERRUPTED
        return ExitCode.INVALID if doing else ExitCode.SOME_FAILED
