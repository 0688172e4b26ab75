"""The scales of a forest plot, equal on the page and in print.

An extreme interval would flatten all others, so it is cut at the end of the scale, where an arrow
replaces its end.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median_low

from harness.report.charts.spec import Forest, ForestRow, Interval

MAX_HALF_WIDTHS = 3  # an end of an interval is within so many median half widths of its estimate
MAX_REACHES = 20  # the scale is within so many median distances of an end from zero
MAX_COSTS = 1.5  # the scale of a cost is within so many times its largest value
PADDING = 0.04  # of the scale, at each end
MAX_TICKS = 4
BEYOND_SCALE = "Arrow: the interval continues beyond the scale."


@dataclass(frozen=True)
class Clipped:
    """The part of an interval within a scale, and which of its ends are beyond."""

    low: float
    high: float
    is_low_cut: bool
    is_high_cut: bool


@dataclass(frozen=True)
class Scale:
    """The range of an axis."""

    low: float
    high: float

    def fraction(self, value: float) -> float:
        """Return the place of a value: 0 at the low end and 1 at the high one."""
        return (value - self.low) / (self.high - self.low)

    def clip(self, interval: Interval) -> Clipped:
        """Return the part of an interval that is within the scale; may be empty at one end."""
        low, high = interval
        return Clipped(
            low=min(max(low, self.low), self.high),
            high=max(min(high, self.high), self.low),
            is_low_cut=low < self.low,
            is_high_cut=high > self.high,
        )

    def contains(self, value: float) -> bool:
        """Return whether the value is within the scale."""
        return self.low <= value <= self.high

    @property
    def ticks(self) -> list[float]:
        """At most `MAX_TICKS` round numbers within the scale."""
        power = 10.0 ** math.floor(math.log10(self.high - self.low))
        for step in (power * factor for factor in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)):
            first = math.ceil(self.low / step)
            last = math.floor(self.high / step)
            if last - first < MAX_TICKS:
                break
        return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def difference_scale(plot: Forest) -> Scale:
    """Return the scale of the differences, with zero, the margin and all but extreme intervals."""
    if plot.x.limits is not None:
        return Scale(*plot.x.limits)
    rows = [row for row in plot.rows if row.value is not None]
    half_widths = [_half_width(row) for row in rows if row.interval is not None]
    reach = MAX_HALF_WIDTHS * median_low(half_widths) if half_widths else 0.0
    ends = [end for row in rows for end in _ends(row, reach)]
    limit = MAX_REACHES * median_low([abs(end) for end in ends]) if ends else 0.0
    kept = [min(max(end, -limit), limit) for end in ends] if limit else ends
    kept += [0.0, *(plot.band or ())]
    if plot.threshold is not None:
        kept.append(plot.threshold)
    low = min(kept)
    high = max(kept)
    padding = PADDING * (high - low) or 1.0
    return Scale(low - padding, high + padding)


def _half_width(row: ForestRow) -> float:
    assert row.value is not None
    assert row.interval is not None
    return max(row.value - row.interval[0], row.interval[1] - row.value)


def _ends(row: ForestRow, reach: float) -> Iterator[float]:
    """Yield the estimate of a row and the ends of its interval within `reach` of it."""
    assert row.value is not None
    yield row.value
    if row.interval is not None:
        yield max(row.interval[0], row.value - reach)
        yield min(row.interval[1], row.value + reach)


def cost_scale(rows: Sequence[ForestRow], column: int) -> Scale:
    """Return the scale of a column of costs, which starts at zero."""
    costs = [row.costs[column] for row in rows if column < len(row.costs)]
    values = [cost.value for cost in costs if cost.value is not None]
    largest = max(values, default=0.0)
    ends = [cost.interval[1] for cost in costs if cost.interval is not None]
    end = min(max([largest, *ends]), MAX_COSTS * largest)
    return Scale(0.0, end if end > 0 else 1.0)


def is_cut(plot: Forest) -> bool:
    """Return whether any interval or estimate continues beyond its scale."""
    scale = difference_scale(plot)
    costs = [cost_scale(plot.rows, column) for column in range(len(plot.cost_titles))]
    for row in plot.rows:
        ends = [*(row.interval or ()), *([] if row.value is None else [row.value])]
        if not all(scale.contains(end) for end in ends):
            return True
        for cost, column in zip(row.costs, costs, strict=False):
            if cost.interval is not None and cost.interval[1] > column.high:
                return True
    return False
