"""Texts that several commands print."""

import shlex
import sys
from collections.abc import Iterable
from typing import TextIO

from harness.errors import StoreError, UserError
from harness.printable import one_line, printable
from harness.system_limits import remedy_of

MAX_PROBLEMS = 40  # more do not fit on a screen
MAX_MESSAGE = 2_000  # characters of a message


def example(arguments: str) -> str:
    """Return the line with an example that ends the help of a command."""
    return f"Example: python -m harness {arguments}"


def command_line() -> str:
    """Return the command line of this process, to be recorded."""
    command = shlex.join(["python", "-m", "harness", *sys.argv[1:]])
    return command.encode(errors="replace").decode()  # arguments need not be UTF-8


def report_error(error: UserError | StoreError | OSError) -> None:
    """Print an error of the user or of a file to stderr, without a traceback."""
    if isinstance(error, FileNotFoundError) and error.filename is None:  # of os.getcwd
        log("error: the folder in which this command runs was removed: change to another one")
    elif not isinstance(error, UserError):
        log(f"error: {_clipped(str(error))}{remedy_of(error)}")
    else:
        n_problems = len(error.problems)
        title = f"error: {n_problems} problems" if n_problems > 1 else "error:"
        log(title, *(f"  {_clipped(str(problem))}" for problem in error.problems[:MAX_PROBLEMS]))
        if n_problems > MAX_PROBLEMS:
            log(f"  and {n_problems - MAX_PROBLEMS} more")


def _clipped(text: str) -> str:
    """Return a message on one line, without its middle if it is long: values may be of any size."""
    text = one_line(text)
    if len(text) <= MAX_MESSAGE:
        return text
    half = MAX_MESSAGE // 2
    return f"{text[:half]} [... {len(text) - 2 * half:,} characters ...] {text[-half:]}"


def show(*lines: object) -> None:
    """Print lines to stdout, without the control characters of result files."""
    _write(sys.stdout, lines)


def log(*lines: object) -> None:
    """Print lines to stderr in the same way, which keeps stdout clean for results."""
    _write(sys.stderr, lines)


def _write(stream: TextIO, lines: Iterable[object]) -> None:
    for line in lines:
        print(printable(str(line)), file=stream)
