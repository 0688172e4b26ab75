"""The data of a chart, independent of the library that draws it.

A `ChartSpec` holds the data of one chart in the units of its axes, and the style of each mark.
`mpl.render` draws it for print, `plotly.render` for the page. Neither computes anything but the
layout.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Dash = Literal["solid", "dash", "dot", "dashdot", "longdash"]
Marker = Literal[
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "triangle-down",
    "cross",
    "x",
    "triangle-left",
    "triangle-right",
    "circle-open",
]
DASHES: tuple[Dash, ...] = get_args(Dash)
MARKERS: tuple[Marker, ...] = get_args(Marker)[:-1]  # the open one is for unresolved verdicts
JsonDict = dict[str, object]
Values = Sequence[float]
Interval = tuple[float, float]  # low, high
Side = Literal["low", "high"]

MAX_MISSING = 3  # names of missing entries in a panel
MAX_TICKS = 8  # on a logarithmic axis
PLAIN_BELOW = 1e7  # numbers on an axis from which on they are written as powers of ten
BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class MarkStyle:
    """How the marks of one entry look; the names of dashes and markers are plotly's."""

    colour: str
    dash: Dash = "solid"
    marker: Marker = "circle"


@dataclass(frozen=True)
class Axis:
    """An axis. With `ticks`, only these are labelled; `binary` writes bytes as KiB, MiB, ...

    `log2` is a logarithmic scale; `ticks` need not be powers of two. `limits` are chosen by the
    renderer if None.
    """

    label: str
    limits: Interval | None = None
    log2: bool = False
    ticks: Values = ()
    binary: bool = False


def powers_of_two(low: float, high: float) -> Values:
    """Return the powers of two within the bounds, evenly thinned to at most `MAX_TICKS`."""
    powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    stride = -(-len(powers) // MAX_TICKS)
    return [2.0**power for power in powers[:: stride or 1]]


def log_ticks(low: float, high: float) -> Values:
    """Return at least two round numbers within the bounds: powers of ten, else finer steps."""
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = _multiples_of_powers(digits, low, high)
        if len(ticks) > 2:
            return ticks[:: -(-len(ticks) // MAX_TICKS)]
    step = 10.0 ** math.floor(math.log10(high - low))
    for fraction in (1, 0.5, 0.2, 0.1):
        size = step * fraction
        ticks = [i * size for i in range(math.ceil(low / size), math.floor(high / size) + 1)]
        if len(ticks) > 2:
            break
    return [float(f"{tick:.10g}") for tick in ticks[:: -(-len(ticks) // MAX_TICKS) or 1]]


def _multiples_of_powers(digits: Values, low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [float(f"{digit * 10.0**power:.10g}") for power in powers for digit in digits]
    return [value for value in values if low <= value <= high]


def tick_label(axis: Axis, value: float) -> str:
    """Return 12,000, or 1e12 for larger numbers, or 512 KiB on a binary axis."""
    if not axis.binary:
        return f"{value:,.10g}" if value < PLAIN_BELOW else f"{value:.3g}".replace("e+", "e")
    power = min(max(int(math.log2(value) // 10), 0), len(BINARY_UNITS) - 1)
    return f"{value / 1024**power:,.4g} {BINARY_UNITS[power]}"


@dataclass(frozen=True)
class Line:
    """A line of one entry; `low` and `high` are empty without an interval.

    `name` distinguishes the line from others in its panel, `entry` from all lines of the chart.
    `markers` says which points have one: all, a few (more variants than colours), or none. `spread`
    draws low to high as a filled band or as a bar at each point. The points with the indices in
    `ringed` are emphasized. Only a `joined` line has a line, and its name with its `value` at the
    end. A faint line is one of many, and has no name.
    """

    name: str
    entry: str
    style: MarkStyle
    x: Values
    y: Values
    low: Values = ()
    high: Values = ()
    spread: Literal["band", "bars"] = "band"
    markers: Literal["all", "few", "none"] = "none"
    ringed: Sequence[int] = ()
    joined: bool = True
    weight: Literal["thick", "normal", "faint"] = "normal"
    value: str = ""

    @property
    def named(self) -> bool:
        """Whether the name is at the end of the line."""
        return self.joined and self.weight != "faint"

    @classmethod
    def with_bars(
        cls,
        name: str,
        entry: str,
        style: MarkStyle,
        points: Sequence[Sequence[float]],
    ) -> "Line":
        """Return a line through points (x, y, low, high) with a marker and a bar at each."""
        x = [point[0] for point in points]
        y = [point[1] for point in points]
        low = [point[2] for point in points]
        high = [point[3] for point in points]
        return cls(name, entry, style, x, y, low, high, spread="bars", markers="all")

    @property
    def bottom(self) -> Values:
        """The lower end of the interval at each point, or the point itself without an interval."""
        return self.low or self.y

    @property
    def top(self) -> Values:
        """The upper end of the interval at each point, or the point itself without an interval."""
        return self.high or self.y


@dataclass(frozen=True)
class ReferenceLine:
    """A labelled line across a panel, at `value` on one of its axes."""

    axis: Literal["x", "y"]
    value: float
    label: str


@dataclass(frozen=True)
class Panel:
    """One plot of a line chart.

    `missing` names entries that have no line, and `missing_reason` says why. `band` is a range of
    y that is shaded. With `marks_beyond`, the limits of y are such that points are beyond them, and
    marks at the edge show where.
    """

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    references: Sequence[ReferenceLine] = ()
    missing: Sequence[str] = ()
    missing_reason: str = "no result"
    band: Interval | None = None
    marks_beyond: bool = False

    @property
    def missing_note(self) -> str:
        """The reason and the names of the missing entries, one a line; of many their number."""
        if not self.missing:
            return ""
        if len(self.missing) > MAX_MISSING:
            return f"{self.missing_reason}: {len(self.missing)} entries"
        return "\n".join([f"{self.missing_reason}:", *self.missing])


@dataclass(frozen=True)
class Lines:
    """Small multiples, `columns` in a row; `shared_axes` if all panels have the same limits.

    `stacked` panels are wide, below each other, and share their x axis.
    """

    panels: Sequence[Panel]
    columns: int = 1
    shared_axes: bool = False
    stacked: bool = False


def beyond(line: Line, limits: Interval) -> list[tuple[float, Side]]:
    """Return where a line leaves the limits of y: the x of the furthest point, and the side.

    The part of the line with its first point, which comes from beyond, has no mark, unless the
    line never comes within the limits.
    """
    low, high = limits
    marks: list[tuple[float, Side]] = []
    furthest: tuple[float, int] | None = None
    side: Side = "high"
    within = False
    for i, y in enumerate([*line.y, math.nan]):
        excess = max(y - high, low - y)
        if excess > 0:
            side = "high" if y > high else "low"
            furthest = max(furthest or (excess, i), (excess, i))
            continue
        if furthest is not None and within:
            marks.append((line.x[furthest[1]], side))
        furthest = None
        within |= excess <= 0
    if not within and len(line.y):
        marks.append((line.x[-1], side))
    return marks


@dataclass(frozen=True)
class Part:
    """One segment of all stacked bars; without a colour, each bar has the colour of its row."""

    name: str
    colour: str | None = None
    hatched: bool = False


@dataclass(frozen=True)
class BarRow:
    """One bar of stacked `values`, one for each part; with `note`, the reason why there is none.

    `predicted` is marked across the bar, `text` is written after it. Rows of another `group` are
    set apart.
    """

    name: str
    values: Values = ()
    group: str = ""
    colour: str = ""
    interval: Interval | None = None
    predicted: float | None = None
    text: str = ""
    note: str = ""


@dataclass(frozen=True)
class Bars:
    """Horizontal stacked bars, one row per entry."""

    x: Axis
    parts: Sequence[Part]
    rows: Sequence[BarRow]


@dataclass(frozen=True)
class IntervalRow:
    """An estimate with its interval; `verdict` is written at the end of the row."""

    name: str
    value: float
    interval: Interval
    verdict: str
    style: MarkStyle
    group: str = ""


@dataclass(frozen=True)
class Intervals:
    """A forest plot: one interval per row against zero.

    `band` is the equivalence margin, and `threshold` the end of a superior improvement. Intervals
    that reach beyond the limits of `x` end in an arrow.
    """

    x: Axis
    rows: Sequence[IntervalRow]
    band: Interval | None = None
    threshold: float | None = None

    def cut_ends(self) -> list[tuple[int, Side]]:
        """Return the row and the side of each interval that ends beyond the limits of the axis."""
        if self.x.limits is None:
            return []
        low, high = self.x.limits
        ends: list[tuple[int, Side]] = []
        for i, row in enumerate(self.rows):
            ends += [(i, "low")] if row.interval[0] < low else []
            ends += [(i, "high")] if row.interval[1] > high else []
        return ends


@dataclass(frozen=True)
class Dot:
    """A value in a row of a panel, with the index of its marker."""

    row: int
    mark: int
    value: float
    interval: Interval | None = None


@dataclass(frozen=True)
class DotPanel:
    """One measurement of all rows; the limits of `x` cut intervals."""

    x: Axis
    dots: Sequence[Dot]


@dataclass(frozen=True)
class Dots:
    """Small multiples: a row for each candidate, a marker for each context."""

    rows: Sequence[str]
    marks: Sequence[tuple[str, MarkStyle]]
    panels: Sequence[DotPanel]
    columns: int = 2

    def offset(self, mark: int) -> float:
        """Return the distance of a marker from the middle of its row, in rows."""
        n_marks = len(self.marks)
        return 0.7 * ((mark + 0.5) / n_marks - 0.5)


@dataclass(frozen=True)
class CostBar:
    """One cost of an entry as a small bar, with the interval of its value.

    `change` is the change relative to the baseline as text, empty for the baseline, and `verdict`
    that of its test, empty without one. Without a value, `text` has the reason.
    """

    text: str
    value: float | None = None
    interval: Interval | None = None
    change: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class ForestRow:
    """An entry against the baseline, with its costs.

    `text` is the difference with its interval, `verdict` the word of the verdict, `baseline`, or
    why there is none. A row without an interval has no mark, or only that of its value. `style` is
    that of the verdict, `swatch` the colour of the entry in other charts.
    """

    name: str
    entry: str
    verdict: str
    text: str
    style: MarkStyle
    swatch: str
    value: float | None = None
    interval: Interval | None = None
    costs: Sequence[CostBar] = ()


@dataclass(frozen=True)
class Forest:
    """The answer: one entry per row, the best first, its difference on `x` and its costs.

    `cost_titles` name the columns of costs, in which bars share a scale. `band` is the equivalence
    margin, and `threshold` the end of a superior improvement. `n_more` entries have no row.
    """

    x: Axis
    rows: Sequence[ForestRow]
    cost_titles: Sequence[str] = ()
    band: Interval | None = None
    threshold: float | None = None
    n_more: int = 0

    def as_intervals(self) -> Intervals:
        """Return the rows that have an interval, without their costs."""
        rows = [
            IntervalRow(
                row.name, row.value, row.interval or (row.value,) * 2, row.verdict, row.style
            )
            for row in self.rows
            if row.value is not None
        ]
        return Intervals(self.x, rows, self.band, self.threshold)


@dataclass(frozen=True)
class Point:
    """A point of a scatter plot with the interval of its x value, if one is known.

    Points of one `group` share a legend entry. `size` is 0 to 1, `detail` explains it on hover.
    `on_front`: no other point is better on both axes.
    """

    name: str
    x: float
    y: float
    interval: Interval | None
    style: MarkStyle
    group: str
    size: float = 0.0
    detail: str = ""
    on_front: bool = False


@dataclass(frozen=True)
class Scatter:
    """Points, of which those on the Pareto front are ringed and joined.

    More x and less y are better.
    """

    x: Axis
    y: Axis
    points: Sequence[Point]


@dataclass(frozen=True)
class ChartSpec:
    """One chart.

    `name` is the stem of its files, `subtitle` explains its marks, `note` has further sentences
    for the caption. `alt` describes the chart in a sentence, with its main finding.
    """

    name: str
    title: str
    subtitle: str
    alt: str
    plot: Lines | Bars | Intervals | Scatter | Forest | Dots
    note: str = ""

    @property
    def caption(self) -> str:
        """The explanation in sentences."""
        return f"{self.title}: {self.subtitle}.{self.note}"
