"""Draw charts with matplotlib, as PNG and SVG; layout in inches, the same bytes every time."""

from matplotlib.figure import Figure

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
