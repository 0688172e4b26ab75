"""Small multiples of dots: a row for each candidate, a marker for each context."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from harness.report.charts.mpl.setup import (
    GRID,
    HEAD,
    MARKERS,
    add_axes,
    new_figure,
    set_scale,
    widest,
)
from harness.report.charts.spec import ChartSpec, DotPanel, Dots

MARK = 0.15  # inches of a row for each marker, as all that follow
MIN_ROW = 0.3
WIDTH = 2.9
GAP = 0.35
BOTTOM = 0.6
LEGEND = 0.3


def draw(spec: ChartSpec, plot: Dots) -> Figure:
    """Draw the panels with the names of the rows at the left of each line of panels."""
    left = widest(plot.rows) + 0.3
    height = len(plot.rows) * max(MIN_ROW, MARK * len(plot.marks))
    n_lines = -(-len(plot.panels) // plot.columns)
    n_columns = min(plot.columns, len(plot.panels))
    width = left + n_columns * (WIDTH + GAP)
    total = HEAD + LEGEND + n_lines * (height + BOTTOM)
    figure = new_figure(width, total, spec.title, spec.subtitle)
    first: Axes | None = None
    for i, panel in enumerate(plot.panels):
        line, column = divmod(i, plot.columns)
        top = HEAD + LEGEND + line * (height + BOTTOM)
        axes = add_axes(figure, left + column * (WIDTH + GAP), top, WIDTH, height)
        _panel(axes, plot, panel, has_names=column == 0)
        first = first or axes
    if first is not None:
        handles = [
            Line2D([], [], color=style.colour, marker=MARKERS[style.marker], linestyle="none")
            for _, style in plot.marks
        ]
        names = [name for name, _ in plot.marks]
        anchor = (0, 1 + 0.06 / height)
        first.legend(handles, names, ncols=6, loc="lower left", bbox_to_anchor=anchor)
    return figure


def _panel(axes: Axes, plot: Dots, panel: DotPanel, has_names: bool) -> None:
    axes.set_ylim(len(plot.rows) - 0.5, -0.5)
    axes.set_yticks(range(len(plot.rows)), plot.rows if has_names else [""] * len(plot.rows))
    axes.tick_params(axis="y", length=0, labelcolor="black")
    axes.grid(axis="y", visible=False)
    for row in range(1, len(plot.rows)):
        axes.axhline(row - 0.5, color=GRID, linewidth=0.7)
    set_scale(axes, "x", panel.x)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlim(panel.x.limits)
    axes.set_xlabel(panel.x.label)
    for dot in panel.dots:
        _, style = plot.marks[dot.mark]
        place = dot.row + plot.offset(dot.mark)
        if dot.interval:
            axes.plot(dot.interval, [place, place], color=style.colour, linewidth=1, alpha=0.6)
        axes.plot(
            dot.value,
            place,
            MARKERS[style.marker],
            color=style.colour,
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.4,
        )
