"""Format numbers for the report. Only this module rounds.

A missing value (None or NaN) is shown as a dash. `low` and `high` are the ends of the 95 %
interval, missing if there is none.
"""

import math
from typing import TypeGuard

MISSING = "–"
NO_SPEED = "diverges"  # replaces the speed of an entry that diverges from the single-process run
MIB = 2**20
SECONDS_TO_MS = 1e3

Number = float | None


def is_known(value: Number) -> TypeGuard[float]:
    """Return whether there is a value."""
    return value is not None and not math.isnan(value)


def mean(value: Number, low: Number = None, high: Number = None, digits: int = 4) -> str:
    """Return 1.2345 ± 0.0012: the mean and half the width of its interval."""
    if not is_known(value):
        return MISSING
    rounded = f"{value:.{digits}f}"
    if not (is_known(low) and is_known(high)):
        return rounded
    return f"{rounded} ± {(high - low) / 2:.{digits}f}"


def difference(value: Number, low: Number = None, high: Number = None) -> str:
    """Return a signed difference with its interval: +0.1234 [+0.1000, +0.1468]."""
    if not is_known(value):
        return MISSING
    if not (is_known(low) and is_known(high)):
        return signed(value)
    return f"{signed(value)} [{signed(low)}, {signed(high)}]"


def signed(value: float) -> str:
    """Return +0.1234, or +1.2e-07 for a value that would be rounded to zero."""
    return f"{value:+.4f}" if value == 0 or abs(value) >= 5e-4 else f"{value:+.1e}"


def median(value: Number, low: Number = None, high: Number = None, scale: float = 1.0) -> str:
    """Return a median times `scale` and its interval: 123.4 [120.1, 125.0]."""
    if not is_known(value):
        return MISSING
    rounded = significant_figures(value * scale)
    if not (is_known(low) and is_known(high)):
        return rounded
    return f"{rounded} [{significant_figures(low * scale)}, {significant_figures(high * scale)}]"


def significant_figures(value: Number) -> str:
    """Return 12,345 or 123.4 or 1.234: four significant figures, whole numbers from 1,000."""
    if not is_known(value):
        return MISSING
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    return f"{value:,.{digits}f}"


def ratio(value: Number, low: Number = None, high: Number = None) -> str:
    """Return 1.234 [1.200, 1.268]."""
    if not is_known(value):
        return MISSING
    if not (is_known(low) and is_known(high)):
        return f"{value:.3f}"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def mib(size_bytes: Number) -> str:
    """Return a number of bytes in MiB."""
    if not is_known(size_bytes):
        return MISSING
    return f"{size_bytes / MIB:,.1f}"


def percent(fraction: Number) -> str:
    """Return 12.3 %."""
    if not is_known(fraction):
        return MISSING
    return f"{100 * fraction:.1f} %"


def deviation(value: Number) -> str:
    """Return 1.2e-07, or 0."""
    if not is_known(value):
        return MISSING
    return "0" if value == 0 else f"{value:.1e}"


def p_value(value: Number) -> str:
    """Return a p-value with four digits."""
    if not is_known(value):
        return MISSING
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def yes_no(value: bool | None, unknown: str = MISSING) -> str:
    """Return yes, no, or `unknown`."""
    if value is None:
        return unknown
    return "yes" if value else "no"


def count(n: int, noun: str, plural: str | None = None) -> str:
    """Return 1 run, 2 runs."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"
