"""Standard streams of a command: closed ones, readers that have gone, full disks, any encoding."""

import io
import os
import sys

from typing_extensions import Buffer

from harness.errors import ExitCode

STDIN = 0
OUTPUTS = {"stdout": 1, "stderr": 2}


class ReaderGone(SystemExit):
    """The process that reads the output has ended, as `head` does: this one ends quietly too."""

    def __init__(self) -> None:
        super().__init__(ExitCode.READER_GONE)


class _Output(io.FileIO):
    """A standard output. `is_discarded`: the process ends, and buffered bytes are lost."""

    is_discarded = False

    def __init__(self, name: str) -> None:
        super().__init__(OUTPUTS[name], "w", closefd=False)
        self._title = name
        self._has_failed = False

    def write(self, data: Buffer, /) -> int:
        """Write bytes; a message for stderr that cannot be written is lost.

        Raises:
            ReaderGone: nobody reads the pipe.
            OSError: the disk is full, or the device fails; raised once.
        """
        if _Output.is_discarded or self._has_failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except BrokenPipeError:
            raise ReaderGone from None
        except OSError as error:
            if self._title == "stderr":  # the work goes on
                return memoryview(data).nbytes
            self._has_failed = True
            raise OSError(error.errno, error.strerror, self._title) from None


def prepare() -> None:
    """Replace closed standard streams by /dev/null, and the objects that write to the outputs.

    Otherwise, the first files that a process opens would become its standard streams.
    """
    _open_closed(STDIN, os.O_RDONLY)
    if sys.stdin is None:
        sys.stdin = open(STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115 - until the end
    for name, fd in OUTPUTS.items():
        _open_closed(fd, os.O_WRONLY)
        stream = getattr(sys, name)
        if stream is not None:
            stream.flush()
        errors = "replace" if name == "stdout" else "backslashreplace"
        writer = io.TextIOWrapper(
            io.BufferedWriter(_Output(name)),
            encoding=getattr(stream, "encoding", "utf-8"),
            errors=errors,  # the encoding may not represent the text, as ASCII
            line_buffering=name == "stderr" or os.isatty(fd),
        )
        setattr(sys, name, writer)


def discard() -> None:
    """Discard further output, so that Python reports no failure when it ends."""
    _Output.is_discarded = True


def _open_closed(fd: int, flags: int) -> None:
    """Open /dev/null as `fd` if that is closed; all lower ones are open, so it is the next one."""
    try:
        os.fstat(fd)
    except OSError:
        os.set_inheritable(os.open(os.devnull, flags), True)
