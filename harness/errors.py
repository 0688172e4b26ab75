"""What the user can put right: reported whole, with the place and the remedy, exit code 2, no traceback."""

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
    """One thing wrong: `place` says where (file and key path), `message` what is wrong and what is allowed."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class UserError(Exception):
    """Something in the study, the command line or the surroundings is wrong; nothing has been started."""

    def __init__(self, problems: Iterable[Problem] | str) -> None:
        self.problems = [Problem("", problems)] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(map(str, self.problems)))


def choices(name: str, allowed: Iterable[str]) -> str:
    """Tell the nearest right name, if there is one, and all that are allowed."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    guess = f"did you mean '{near[0]}'? " if near else ""
    return f"{guess}allowed: {', '.join(allowed) or 'nothing'}"
