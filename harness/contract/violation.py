"""What a check reports: a violation of the contract, with its evidence and its place."""

import traceback
from dataclasses import dataclass
from pathlib import Path

import torch

from variants.errors import text_of

LIBRARIES = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent), "<")


@dataclass(frozen=True)
class Violation:
    """A violation: the name of the check, the evidence, and where it enters.

    `where` is a module of the model or a line of the variant's file. A violation that is not
    `fatal` makes a figure wrong, but not the results.
    """

    check: str
    message: str
    where: str = ""
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


def raised(check: str, error: BaseException) -> Violation:
    """Return the violation that an exception is, with the line of the variant that raised it."""
    message = f"{type(error).__name__}: {text_of(error)}".removesuffix(": ")
    return Violation(check, message, line_of(error))


def line_of(error: BaseException) -> str:
    """Return file and line of the innermost frame outside of torch and this package, or ""."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "site-packages" not in frame.filename and not frame.filename.startswith(LIBRARIES):
            return f"{frame.filename}:{frame.lineno}"
    return ""
