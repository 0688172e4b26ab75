"""Format numbers for the report. Only this module rounds.

A missing value (None or NaN) is shown as a dash. `low` and `high` are the ends of the 95 %
interval, missing if there is none.
"""

import math
from collections.abc import Callable, Mapping

from harness.analysis.power import MAX_SEEDS

MISSING = "–"
NO_SPEED = "diverges"  # replaces the speed of an entry that diverges from the single-process run
MIB = 2**20
SECONDS_TO_MS = 1e3
WIDE = 1e-3  # width of an interval whose center needs no more digits than the usual ones
MAX_DIGITS = 9  # decimals
RATIO_ROUNDING = 1e-12  # a ratio that differs from 1 by less is equal

Number = float | None
Show = Callable[[float], str]  # formats a value that is not missing

fixed = "{:.4f}".format
whole = "{:,}".format


def number(value: Number, show: Show) -> str:
    """Return the value as `show` formats it."""
    return MISSING if value is None or math.isnan(value) else show(value)


def interval(value: Number, low: Number, high: Number, show: Show) -> str:
    """Return a value and its interval: 123.4 [120.1, 125.0]."""
    shown = [number(value, show), number(low, show), number(high, show)]
    return shown[0] if MISSING in shown else "{} [{}, {}]".format(*shown)


def difference(value: Number, low: Number = None, high: Number = None) -> str:
    """Return a tested difference and its interval: -0.0512 [-0.1020, 0)."""
    return _tested(value, low, high, signed, 0.0, "0")


def gain(value: Number, low: Number = None, high: Number = None) -> str:
    """Return the size of a tested difference and its interval: 0.0512 (0, 0.1020]."""
    return _tested(value, low, high, size, 0.0, "0")


def change(value: Number, low: Number = None, high: Number = None) -> str:
    """Return a tested difference of logarithms and its interval: -5.12 % [-10.20 %, 0 %)."""
    return _tested(value, low, high, percent_change, 0.0, "0 %")


def tested_ratio(value: Number, low: Number = None, high: Number = None) -> str:
    """Return a tested ratio and its interval: 0.951 [0.902, 1)."""
    return _tested(value, low, high, ratio, 1.0, "1")


def _tested(
    value: Number, low: Number, high: Number, show: Show, null: float, shown_null: str
) -> str:
    """Return a value and its interval, which excludes an end at `null`, that of no difference.

    A test that rejects in a later step has such an interval. If both ends are equal, the value is
    exact. A small value in a wide interval has no more digits than others.
    """
    if value is not None and low is not None and high is not None:
        if low < null < high and high - low > WIDE and abs(value - null) < WIDE:
            return f"{PLAIN[show](value)} [{show(low)}, {show(high)}]"
    shown = interval(value, low, high, show)
    if low == high or null not in (low, high):
        return shown
    estimate = number(value, show)
    if low == null:
        return f"{estimate} ({shown_null}, {number(high, show)}]"
    return f"{estimate} [{number(low, show)}, {shown_null})"


def brief_difference(value: float, low: Number = None, high: Number = None) -> str:
    """Return a tested difference with the digits that its interval supports: -0.29 [-0.32, 0)."""
    digits = _supported_digits(value, low, high)
    return _brief(value, low, high, f"{{:+.{digits}f}}".format)


def brief_gain(value: float, bounds: tuple[float, float] | None, unit: str) -> str:
    """Return the size of a resolved difference in the same way: 0.29 nats [0.25, 0.32]."""
    low, high = bounds or (None, None)
    if value < 0:
        value = -value
        low, high = (None, None) if low is None or high is None else (-high, -low)
    digits = _supported_digits(value, low, high)
    size, _, interval = _brief(value, low, high, f"{{:.{digits}f}}".format).partition(" ")
    return f"{size} {unit} {interval}".rstrip()


def _brief(value: float, low: Number, high: Number, show: Show) -> str:
    if low is None or high is None or low == high:
        return show(value)
    opening = "(0" if low == 0 else f"[{show(low)}"
    closing = "0)" if high == 0 else f"{show(high)}]"
    return f"{show(value)} {opening}, {closing}"


def _supported_digits(value: float, low: Number, high: Number) -> int:
    """Return the decimals that show half an interval to two digits, and no end as 0."""
    if low is None or high is None or low == high:
        sizes = [abs(value)]
    else:
        sizes = [(high - low) / 2]
        sizes += [10 * abs(end) for end in (low, high) if end]
    smallest = min((size for size in sizes if size > 0), default=1.0)
    return min(max(1 - math.floor(math.log10(smallest)), 0), MAX_DIGITS)


def brief_percent(change: float) -> str:
    """Return a relative change: -7 %, +0.4 %, or +12 %."""
    percent = 100 * change
    digits = 0 if abs(percent) >= 1 or percent == 0 else 1
    shown = f"{percent:+.{digits}f} %"
    return "0 %" if float(shown[:-2]) == 0 else shown


def compact(value: float) -> str:
    """Return a number in at most four characters and its power: 644k, 19.9k, 1.24M, 36."""
    for power, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * power:
            return f"{value / power:.3g}{suffix}"
    return f"{value:.3g}"


def mean(value: Number, low: Number = None, high: Number = None) -> str:
    """Return 1.2345 ± 0.0012: the mean and half the width of its interval."""
    half = None if low is None or high is None else (high - low) / 2
    shown = [number(value, fixed), number(half, fixed)]
    return shown[0] if MISSING in shown else " ± ".join(shown)


def seeds_needed(seeds: int | None, low: int | None, high: int | None, unit: str = "") -> str:
    """Return a number of seeds and its interval: 19 (7 to 60); None is beyond `MAX_SEEDS`.

    With a `unit` for use in a sentence: about 19 seeds (7 to 60).
    """
    shown = f"more than {MAX_SEEDS:,}" if seeds is None else whole(seeds)
    if unit:
        shown = f"{shown} {unit}" if seeds is None else f"about {shown} {unit}"
    if low is None or low == high:
        return shown
    bounds = f"{low:,} or more" if high is None else f"{low:,} to {high:,}"
    return f"{shown} ({bounds})"


def signed(value: float) -> str:
    """Return +0.1234, or +1.2e-07 for a value that would be rounded to zero."""
    return f"{value:+.4f}" if value == 0 or abs(value) >= 5e-4 else f"{value:+.1e}"


def size(value: float) -> str:
    """Return 0.1234, or 1.2e-07 for a value that would be rounded to zero."""
    return fixed(value) if value == 0 or abs(value) >= 5e-4 else f"{value:.1e}"


def ratio(value: float) -> str:
    """Return 0.951, with more digits for a value that would be rounded to 1: 1.00004.

    Large and small ones are 18.5, 47,123 and 2.8e-04.
    """
    if value >= 10:
        return f"{value:,.{1 if value < 100 else 0}f}"
    if 0 < value < 5e-4:
        return f"{value:.1e}"
    distance = abs(value - 1)
    if value == 1 or distance >= 5e-4 or not distance > RATIO_ROUNDING:
        return f"{value:.3f}"
    return f"{value:.{-math.floor(math.log10(distance))}f}"


def significant_figures(value: float) -> str:
    """Return 12,345 or 123.4 or 1.234: four significant figures, whole numbers from 1,000."""
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    return f"{value:,.{digits}f}"


def compute(flops: float) -> str:
    """Return a number of FLOPs as 1.2e15."""
    return f"{flops:.3g}".replace("e+", "e")


def milliseconds(seconds: float) -> str:
    """Return seconds as milliseconds with four significant figures."""
    return significant_figures(SECONDS_TO_MS * seconds)


def mib(size_bytes: float) -> str:
    """Return a number of bytes in MiB."""
    return f"{size_bytes / MIB:,.1f}"


def percent(fraction: float) -> str:
    """Return 12.3 %."""
    return f"{100 * fraction:.1f} %"


def percent_change(log_ratio: float) -> str:
    """Return +1.23 % for the logarithm of a ratio of 1.0123; +1.2e-05 %, and +8,749 %."""
    change = 100 * math.expm1(log_ratio)
    if abs(change) >= 100:
        return f"{change:+,.0f} %"
    return f"{change:+.2f} %" if change == 0 or abs(change) >= 5e-3 else f"{change:+.1e} %"


def percent_size(log_ratio: float) -> str:
    """Return 1.23 % for the logarithm of a ratio of 1.0123."""
    return percent_change(log_ratio).lstrip("+")


def deviation(value: float) -> str:
    """Return 1.2e-07, or 0."""
    return "0" if value == 0 else f"{value:.1e}"


def p_value(value: float) -> str:
    """Return a p-value with four digits."""
    return "< 0.0001" if value < 1e-4 else fixed(value)


def setting(key: str, value: object) -> str:
    """Return the value of a setting or of a property of the environment as text."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(setting(key, item) for item in value)
    if key == "memory_bytes" and isinstance(value, int | float):
        return f"{value / 1024 / MIB:.1f} GiB"
    return str(value)


def threshold(value: float, metric: str) -> str:
    """Return a margin or threshold of a metric as a study file states it: 0.01 nats, or 5 %."""
    return f"{value:g} nats" if metric == "val_loss" else f"{100 * value:g} %"


def count(n: int, noun: str, plural: str | None = None) -> str:
    """Return 1 run, 2 runs."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


PLAIN: Mapping[Show, Show] = {
    signed: "{:+.4f}".format,
    size: fixed,
    percent_change: lambda log_ratio: f"{100 * math.expm1(log_ratio):+.2f} %",
    ratio: "{:.3f}".format,
}  # the same number with fixed digits, also if it is rounded to that of no difference
