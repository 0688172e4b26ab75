"""Limits of loss axes that show the ends of curves: spikes and high first losses do not count."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.report.charts.spec import Interval, Line

SETTLED = 0.3  # the y axis covers each curve from this fraction of its steps on
FAILED = 0.3  # of the decline from the first loss to the lowest, by which the end is above it
MIN_SPAN = 0.01  # nats that a loss axis covers at least, so that rounding errors stay invisible
MIN_LATE = 2  # points from that fraction on

Array = NDArray[np.float64]


def without_spikes(values: Array) -> Array:
    """Return the running median of a curve, which a short spike does not change.

    Its window is an eighth of the curve, or three points. The last point is kept.
    """
    window = max(3, len(values) // 8 // 2 * 2 + 1)
    if len(values) < 3 or not np.isfinite(values).all():
        return values
    padded = np.pad(values, window // 2, mode="edge")
    medians = np.median(np.lib.stride_tricks.sliding_window_view(padded, window), axis=1)
    medians[-1] = values[-1]
    return medians


def _late(line: Line, values: Sequence[float], settled: float) -> Array:
    """Return the numbers of a line without spikes, from a fraction of its length on.

    A line of few points counts as a whole.
    """
    late = np.array(line.x) >= settled * line.x[-1]
    if late.sum() < MIN_LATE:
        late[:] = True
    found = without_spikes(np.array(values, dtype=float))[late]
    finite = found[np.isfinite(found)]
    return finite if len(finite) else np.zeros(1)


def loss_limits(
    lines: Iterable[Line],
    floor: float | None,
    settled: float = SETTLED,
    hide_failed: bool = False,
) -> Interval:
    """Return y limits that cover each line from the fraction `settled` of its length on.

    They include `floor` if that does not flatten the lines. Spikes do not count, nor, with
    `hide_failed`, lines that end near their first loss.
    """
    lines = list(lines)
    lows = np.array([_late(line, line.bottom, settled).min() for line in lines])
    highs = np.array([_late(line, line.top, settled).max() for line in lines])
    if hide_failed:
        ends = np.array([_late(line, line.y, settled)[-1] for line in lines])
        first = max(line.y[0] for line in lines)
        learned = ends <= ends.min() + FAILED * max(first - ends.min(), MIN_SPAN)
        lows, highs = lows[learned], highs[learned]
    spare = max(0.0, MIN_SPAN - (highs.max() - lows.min())) / 2
    low = float(lows.min() - spare)
    high = float(highs.max() + spare)
    span = high - low
    if floor is not None and low - span < floor < low:
        low = floor
    return low - 0.09 * span, high + 0.04 * span


def difference_limits(lines: Sequence[Line], band: Interval | None) -> Interval:
    """Return y limits that cover 0, the differences without spikes, and the last intervals.

    An interval or a margin that is wider than all differences does not flatten them.
    """
    late = [_late(line, line.y, SETTLED) for line in lines]
    low = min(0.0, *(float(values.min()) for values in late))
    high = max(0.0, *(float(values.max()) for values in late))
    span = max(high - low, MIN_SPAN)
    ends = [(line.bottom[-1], line.top[-1]) for line in lines]
    ends += [band] if band is not None else []
    low = min([low, *(max(end, low - span) for end, _ in ends if np.isfinite(end))])
    high = max([high, *(min(end, high + span) for _, end in ends if np.isfinite(end))])
    spare = max(0.0, MIN_SPAN - (high - low)) / 2 + 0.06 * (high - low)
    return low - spare, high + spare
