"""Draw charts with matplotlib, as PNG and SVG; layout in inches, the same bytes every time."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

from matplotlib.figure import Figure

from harness.printable import printable
from harness.report.charts.mpl import dots, forest, lines, rows, scatter
from harness.report.charts.mpl.setup import save, styled
from harness.report.charts.spec import Bars, ChartSpec, Dots, Forest, Intervals, Lines, Scatter

__all__ = ["draw", "render"]


def render(spec: ChartSpec) -> dict[str, bytes]:
    """Return the chart as PNG and SVG, by file suffix."""
    with styled():
        return save(draw(spec))


def draw(spec: ChartSpec) -> Figure:
    """Return the chart as a figure in the current style."""
    spec = _printable(spec)
    plot = spec.plot
    match plot:
        case Lines():
            return lines.draw(spec, plot)
        case Bars():
            return rows.draw_bars(spec, plot)
        case Intervals():
            return rows.draw_intervals(spec, plot)
        case Dots():
            return dots.draw(spec, plot)
        case Scatter():
            return scatter.draw(spec, plot)
        case Forest():
            return forest.draw(spec, plot)


def _printable(value: Any) -> Any:
    """Return a part of a chart with printable texts."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and not any(isinstance(item, float) for item in value):
        return type(value)(map(_printable, value))
    if is_dataclass(value) and not isinstance(value, type):
        changes = {one.name: _printable(getattr(value, one.name)) for one in fields(value)}
        return replace(value, **changes)
    return value
