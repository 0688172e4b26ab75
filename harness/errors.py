"""Errors that the user can fix: all reported at once, with location and remedy, exit code 2."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command and of the processes that train."""

    DONE = 0
    SOME_FAILED = 1
    INVALID = 2  # study or command line invalid, or results unreadable; nothing was started
    INTERRUPTED = 130


@dataclass(frozen=True)
class Problem:
    """One problem: `location` is a file and key path, `message` says what is wrong and allowed."""

    location: str
    message: str

    def __str__(self) -> str:
        return f"{self.location}: {self.message}" if self.location else self.message


class UserError(Exception):
    """The study, the command line or the environment is invalid; nothing has been started."""

    def __init__(self, problems: Iterable[Problem] | str) -> None:
        self.problems = [Problem("", problems)] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(map(str, self.problems)))


class StoreError(Exception):
    """A result file cannot be read by this version; the message names the file and the remedy."""


def choices(name: str, allowed: Iterable[str]) -> str:
    """Return the nearest allowed name, if one is close, and all allowed names."""
    names = sorted(allowed)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{nearest[0]}'? " if nearest else ""
    return f"{hint}allowed: {', '.join(names) or 'none'}"
