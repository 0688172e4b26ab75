"""Read the values of a row: labels, seeds, counts, losses and times, with their problems.

Losses are in nats per token, times in seconds, memory in bytes.
"""

import math
import re
from dataclasses import dataclass
from decimal import Decimal

from harness.errors import Problem
from harness.ingest.tables import Value
from harness.results.records.base import MAX_COUNT, MAX_NUMBER, SEEDS_END

MAX_LABEL = 60  # characters
MIN_MEMORY_BYTES = 10**6  # no training process has less: a smaller number has another unit
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
NOT_FINITE = {"nan", "inf", "infinity"}


@dataclass(frozen=True)
class Reader:
    """Reads the values of one row; problems are added to a list."""

    place: str
    problems: list[Problem]

    def refuse(self, column: str, message: str) -> None:
        """Add a problem of a column."""
        self.problems.append(Problem(f"{self.place}: {column}", message))

    def number(self, column: str, value: Value) -> float | None:
        """Return a number, which may not be finite; None if the cell is empty or wrong."""
        if value is None or value == "":
            return None
        if isinstance(value, bool):
            self.refuse(column, f"{value} is not a number")
            return None
        if isinstance(value, Decimal):
            value = float(value)
        if isinstance(value, int | float):
            return float(value) if abs(value) <= MAX_NUMBER else math.nan
        text = str(value).strip()
        if text.lower().lstrip("+-") in NOT_FINITE:
            return math.nan
        if isinstance(value, str) and NUMBER.fullmatch(text):
            return float(text)
        hint = "; write nan for a loss that is not finite" if column.startswith("val_loss") else ""
        self.refuse(column, f"'{text[:40]}' is not a number{hint}")
        return None

    def count(self, column: str, value: Value, end: int = MAX_COUNT) -> int | None:
        """Return an integer from 0 to below `end`."""
        number = self.number(column, value)
        if number is None:
            return None
        if not math.isfinite(number) or number != int(number) or not 0 <= number < end:
            self.refuse(column, f"{value} must be a whole number from 0 to below {end:,}")
            return None
        return int(number)

    def seed(self, column: str, value: Value) -> int | None:
        """Return a seed."""
        if value is None or value == "":
            self.refuse(column, "is empty; each run needs its seed")
            return None
        return self.count(column, value, SEEDS_END)

    def loss(self, column: str, value: Value) -> float | None:
        """Return a validation loss; NaN if it is not finite, None if the cell is empty or wrong."""
        number = self.number(column, value)
        if number is None:
            return None
        if number < 0:
            self.refuse(column, f"{value} is negative; losses are in nats per token, from 0 on")
            return None
        return number if number <= MAX_NUMBER else math.nan

    def seconds(self, column: str, value: Value, allow_zero: bool = False) -> float | None:
        """Return a time above 0, or from 0 on, seconds."""
        number = self.number(column, value)
        if number is None:
            return None
        if number < 0 or not number <= MAX_NUMBER or (number == 0 and not allow_zero):
            least = "from 0 on" if allow_zero else "above 0"
            self.refuse(column, f"{value} must be a finite time {least}, in seconds")
            return None
        return number

    def memory(self, column: str, value: Value) -> int | None:
        """Return a peak memory, bytes."""
        number = self.count(column, value)
        if number is not None and number < MIN_MEMORY_BYTES:
            message = "is below 1 MB; the unit is bytes (multiply MiB by 1,048,576)"
            self.refuse(column, f"{value} {message}")
            return None
        return number

    def label(self, column: str, value: Value) -> str | None:
        """Return a label as text."""
        text = "" if value is None else str(value).strip()
        if not text:
            self.refuse(column, "is empty; each row needs its label")
            return None
        if len(text) > MAX_LABEL or not text.isprintable():
            allowed = f"must be at most {MAX_LABEL} characters that can be printed"
            self.refuse(column, f"'{text[:MAX_LABEL]}' {allowed}")
            return None
        return text
