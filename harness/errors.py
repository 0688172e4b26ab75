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
    CLAIM_LOST = 3  # of a process that trains: another one has taken its run over
    REQUEUE = 75  # of a process that trains: it saved its state and wants to be started again
    INTERRUPTED = 130
    READER_GONE = 141  # nobody reads the output; shells report SIGPIPE so


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


class ClaimLost(Exception):
    """Another process has taken the run over; this one must not write to it and ends silently."""


def choices(name: str, allowed: Iterable[str]) -> str:
    """Return the nearest allowed names, if any are close, and all allowed names.

    Names that begin with the whole of `name` are the nearest: `keep` means `keep_checkpoints`.
    """
    names = sorted(allowed)
    nearest = [other for other in names if len(name) > 2 and other.startswith(f"{name}_")]
    nearest = nearest or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    quoted = " or ".join(f"'{other}'" for other in nearest)
    hint = f"did you mean {quoted}? " if nearest else ""
    return f"{hint}allowed: {', '.join(names) or 'none'}"
