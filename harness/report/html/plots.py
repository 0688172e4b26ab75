"""What the charts of the page are made of: plotly's traces and layouts, without the page's own colours."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.analysis.dataset import Entry
from harness.analysis.intervals import Bounds
from harness.report.charts.style import Look
from harness.report.html.style import line, plain, rounded
from harness.results.store import Json

MOST_ROWS, MOST_POINTS, MOST_LINES = 60, 1000, 24  # that a chart shows
Trace = Json
Point = tuple[float, float, Bounds | None]  # x, y, and its interval


@dataclass(frozen=True)
class Chart:
    """A chart: its name, what it shows, in a sentence that stands under it and names it, and what plotly draws.

    `figure` has `data` and `layout` as plotly takes them, and `rows`, how many rows of bars or marks it has, else 0.
    """

    name: str
    caption: str
    figure: Json

    @property
    def alt(self) -> str:
        """What the chart shows."""
        return self.caption


def chart(
    name: str, caption: str, data: list[Trace], x: str, y: str = "", powers: Iterable[int] = ()
) -> Chart:
    """Return a chart with named axes; `powers` are places of an x axis in powers of two."""
    places = sorted(set(powers))
    axis: Json = (
        {"type": "log", "tickvals": places, "ticktext": [f"{n:,}" for n in places]}
        if places
        else {}
    )
    layout = {"xaxis": {"title": {"text": x}} | axis, "yaxis": {"title": {"text": y}}}
    return Chart(name, caption, {"data": data, "layout": layout, "rows": 0})


def in_rows(
    name: str, caption: str, data: list[Trace], x: str, names: Sequence[str], stacked: bool = False
) -> Chart:
    """Return a chart with a named row for each place 0, 1, ... of the y axis, the first at the top."""
    layout = {
        "xaxis": {"title": {"text": x}},
        "yaxis": {
            "tickvals": list(range(len(names))),
            "ticktext": [plain(name) for name in names],
            "zeroline": False,
            "range": [len(names) - 0.4, -0.6],
        },
        "barmode": "stack" if stacked else "group",
    }
    return Chart(name, caption, {"data": data, "layout": layout, "rows": len(names)})


def first(items: Sequence[object], most: int, what: str) -> str:
    """Say where only the first of many are drawn."""
    return (
        f" The first {most} of {len(items):,} {what}; the tables have more."
        if len(items) > most
        else ""
    )


def entry_line(look: Look, entry: Entry, name: str, points: list[Point]) -> Trace:
    """Return a line that looks as the entry does everywhere."""
    how = line(look, entry)
    return points_and_line(name, points) | {
        "line": {"color": how["colour"], "dash": how["dash"]},
        "marker": {"symbol": how["symbol"], "size": 8},
    }


def points_and_line(name: str, points: list[Point]) -> Trace:
    """Return a line through points, with their intervals where all have one."""
    x, y = [point[0] for point in points], [point[1] for point in points]
    bounds = [point[2] for point in points if point[2]]
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(name),
        "x": x,
        "y": rounded(y),
    }
    return trace | ({"error_y": error(y, bounds)} if len(bounds) == len(y) else {})


def error(values: Sequence[float], bounds: Sequence[Bounds]) -> Json:
    """Return plotly's error bars from the ends of intervals."""
    plus = rounded(high - value for value, (_, high) in zip(values, bounds, strict=True))
    minus = rounded(value - low for value, (low, _) in zip(values, bounds, strict=True))
    return {
        "type": "data",
        "symmetric": False,
        "array": plus,
        "arrayminus": minus,
        "thickness": 1.2,
        "width": 3,
    }
