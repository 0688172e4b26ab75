"""A forest plot for the page: where the marks of each row are, in percent of a column's width."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from harness.report.charts.forest_scale import (
    BEYOND_SCALE,
    Scale,
    cost_scale,
    difference_scale,
    is_cut,
)
from harness.report.charts.spec import CostBar, Forest, ForestRow, tick_label

MARKS = {
    "circle": "M4.5 0A4.5 4.5 0 1 1-4.5 0A4.5 4.5 0 1 1 4.5 0Z",
    "circle-open": "M4 0A4 4 0 1 1-4 0A4 4 0 1 1 4 0Z",
    "square": "M-4-4H4V4H-4Z",
    "diamond": "M0-5.5L5.5 0L0 5.5L-5.5 0Z",
}  # SVG paths around the origin, in pixels
NEGATIVE = re.compile(r"(?<![\w.])-(?=\d)")
TONES = ("better", "worse", "equivalent", "unresolved")


@dataclass(frozen=True)
class Span:
    """A range: its start and its width, and which ends continue beyond the scale."""

    start: float
    width: float
    is_low_cut: bool = False
    is_high_cut: bool = False

    @property
    def end(self) -> float:
        """The end of the range."""
        return self.start + self.width


@dataclass(frozen=True)
class CostView:
    """A cost with its bar and its whisker."""

    title: str
    cost: CostBar
    bar: float | None
    whisker: Span | None


@dataclass(frozen=True)
class RowView:
    """A row with the places of its mark, its interval and its costs; `tone` is a class of CSS."""

    row: ForestRow
    tone: str
    mark: str
    value: float | None
    interval: Span | None
    costs: list[CostView]


@dataclass(frozen=True)
class ForestView:
    """A forest plot: its rows, its ticks with their labels, and its reference lines."""

    plot: Forest
    rows: list[RowView]
    ticks: list[tuple[float, str]]
    zero: float
    band: Span | None
    threshold: float | None
    note: str


def view(plot: Forest) -> ForestView:
    """Return the places of all marks of a forest plot."""
    scale = difference_scale(plot)
    return ForestView(
        plot=plot,
        rows=[_row(plot, row, scale) for row in plot.rows],
        ticks=[(_percent(scale, tick), minus(tick_label(plot.x, tick))) for tick in scale.ticks],
        zero=_percent(scale, 0.0),
        band=None if plot.band is None else _span(scale, plot.band),
        threshold=None if plot.threshold is None else _percent(scale, plot.threshold),
        note=BEYOND_SCALE if is_cut(plot) else "",
    )


def minus(text: str) -> str:
    """Return text with minus signs before its negative numbers."""
    return NEGATIVE.sub("\N{MINUS SIGN}", text)


def _percent(scale: Scale, value: float) -> float:
    return round(100 * scale.fraction(value), 2)


def _span(scale: Scale, interval: tuple[float, float]) -> Span:
    part = scale.clip(interval)
    start = _percent(scale, part.low)
    width = round(_percent(scale, part.high) - start, 2)
    return Span(start, width, part.is_low_cut, part.is_high_cut)


def _row(plot: Forest, row: ForestRow, scale: Scale) -> RowView:
    value = None
    interval = None
    if row.value is not None and scale.contains(row.value):
        value = _percent(scale, row.value)
    if row.interval is not None:
        interval = _span(scale, row.interval)
    elif row.value is not None and value is None:
        interval = _span(scale, (row.value, row.value))  # an arrow at the end of the scale
    return RowView(
        row=row,
        tone=row.verdict if row.verdict in TONES else "none",
        mark=MARKS.get(row.style.marker, MARKS["circle"]),
        value=value,
        interval=interval,
        costs=list(_costs(plot, row)),
    )


def _costs(plot: Forest, row: ForestRow) -> Iterator[CostView]:
    for column, (title, cost) in enumerate(zip(plot.cost_titles, row.costs, strict=True)):
        scale = cost_scale(plot.rows, column)
        whisker = None if cost.interval is None else _span(scale, cost.interval)
        bar = None if cost.value is None else _percent(scale, cost.value)
        yield CostView(title, cost, bar, whisker)
