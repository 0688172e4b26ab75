"""The answer as a figure: a row per candidate, its difference, its verdict and its costs."""

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from harness.report.charts.forest_scale import (
    BEYOND_SCALE,
    Clipped,
    Scale,
    cost_scale,
    difference_scale,
    is_cut,
)
from harness.report.charts.mpl.setup import (
    FAINT,
    GRID,
    HEAD,
    INK,
    MARKERS,
    SMALL,
    Coords,
    add_axes,
    new_figure,
    set_scale,
    widest,
    write,
)
from harness.report.charts.spec import ChartSpec, CostBar, Forest, ForestRow
from harness.report.charts.style import VERDICTS

ROW = 0.34  # inches, as all that follow
TITLES = 0.26  # of the columns
BOTTOM = 0.5
MARKS_WIDTH = 2.4
COST_WIDTH = 0.78
GAP = 0.16
SWATCH = 0.14
NAME_LINE = 34  # characters
VERDICT_LINE = 18
MAX_LINES = 2
BAR = "#b9c4cf"
ROW_COORDS: tuple[Coords, Coords] = ("axes fraction", "data")
RESOLVED = ("better", "worse")


def draw(spec: ChartSpec, plot: Forest) -> Figure:
    """Draw a row per candidate; those without an interval show their reason."""
    names = [_wrap(row.name, NAME_LINE) for row in plot.rows]
    verdicts = [_wrap(row.verdict, VERDICT_LINE) for row in plot.rows]
    left = widest(names) + SWATCH + 2 * GAP
    texts_at = left + MARKS_WIDTH + GAP
    verdicts_at = texts_at + widest([row.text for row in plot.rows]) + GAP
    costs_at = verdicts_at + widest(verdicts, weight="bold") + GAP
    cost_widths = [max(COST_WIDTH, widest([title])) for title in plot.cost_titles]
    width = costs_at + sum(cost_widths) + GAP * len(cost_widths)
    height = ROW * len(plot.rows)
    top = HEAD + TITLES
    figure = new_figure(width, top + height + BOTTOM, spec.title, _subtitle(spec, plot))
    axes = add_axes(figure, left, top, MARKS_WIDTH, height)
    _prepare(axes, plot, height)
    for i, row in enumerate(plot.rows):
        _mark(axes, plot, row, _place(i))
        _swatch(axes, row, _place(i))
        right = (1, _place(i))
        start = -72 * (left - SWATCH - GAP)
        write(axes, names[i], (0, _place(i)), ROW_COORDS, (start, 0))
        write(axes, row.text, right, ROW_COORDS, (72 * GAP, 0))
        offset = 72 * (verdicts_at - left - MARKS_WIDTH)
        is_verdict = row.verdict in VERDICTS
        colour = row.style.colour if is_verdict else FAINT
        write(axes, verdicts[i], right, ROW_COORDS, (offset, 0), colour=colour)
    place = costs_at
    for column, cost_width in enumerate(cost_widths):
        _costs(add_axes(figure, place, top, cost_width, height), plot, column)
        place += cost_width + GAP
    if plot.n_more:
        more = f"{plot.n_more:,} more candidates in the table of results"
        write(axes, more, (0, 0), ("axes fraction", "axes fraction"), (-72 * (left - GAP), -24))
    return figure


def _subtitle(spec: ChartSpec, plot: Forest) -> str:
    """Return the explanation of the marks, with that of the arrows if there are any."""
    if not is_cut(plot):
        return spec.subtitle
    return f"{spec.subtitle}; {BEYOND_SCALE[:1].lower()}{BEYOND_SCALE[1:].rstrip('.')}"


def _wrap(text: str, width: int) -> str:
    """Return text in at most `MAX_LINES` lines."""
    lines = textwrap.wrap(text, width, max_lines=MAX_LINES, placeholder="…")
    return "\n".join(lines)


def _place(i: int) -> float:
    """Return the middle of a row in inches from the top of the axes."""
    return ROW * (i + 0.5)


def _prepare(axes: Axes, plot: Forest, height: float) -> None:
    """Set the scales, and draw the reference lines and a rule below each row."""
    scale = difference_scale(plot)
    set_scale(axes, "x", plot.x)
    axes.set_xlim(scale.low, scale.high)
    axes.xaxis.set_major_locator(FixedLocator(scale.ticks))
    axes.set_xlabel(plot.x.label)
    _set_rows(axes, height)
    if plot.band is not None:
        axes.axvspan(*plot.band, color=GRID, linewidth=0)
    if plot.threshold is not None:
        axes.axvline(plot.threshold, color=INK, linewidth=0.8, linestyle="dashed")
    axes.axvline(0, color=FAINT, linewidth=0.8)


def _set_rows(axes: Axes, height: float) -> None:
    axes.set_ylim(height, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _mark(axes: Axes, plot: Forest, row: ForestRow, place: float) -> None:
    """Draw an estimate and its interval, with an arrow at each end beyond the scale."""
    scale = difference_scale(plot)
    colour = row.style.colour
    interval = row.interval
    if interval is None and row.value is not None and not scale.contains(row.value):
        interval = (row.value, row.value)
    if interval is not None:
        part = scale.clip(interval)
        axes.plot([part.low, part.high], [place, place], color=colour, linewidth=1.8)
        _arrows(axes, part, place, colour, 5)
    if row.value is not None and scale.contains(row.value):
        axes.plot(
            row.value,
            place,
            MARKERS[row.style.marker],
            color=colour,
            markerfacecolor="white" if row.style.marker.endswith("-open") else colour,
            markersize=5,
        )


def _arrows(axes: Axes, part: Clipped, place: float, colour: str, size: float) -> None:
    for end, is_cut_off, arrow in (
        (part.low, part.is_low_cut, "<"),
        (part.high, part.is_high_cut, ">"),
    ):
        if is_cut_off:
            axes.plot(end, place, arrow, color=colour, markersize=size, clip_on=False)


def _swatch(axes: Axes, row: ForestRow, place: float) -> None:
    """Draw the colour that the candidate has in other charts, at the left edge of the figure."""
    position = axes.get_position()
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure_width, figure_height = figure.get_size_inches()
    top = (1 - position.y1) * figure_height
    x = (GAP + SWATCH / 4) / figure_width
    y = 1 - (top + place) / figure_height
    square = Line2D([x], [y], marker="s", color=row.swatch, markersize=5, linestyle="")
    figure.add_artist(square)


def _costs(axes: Axes, plot: Forest, column: int) -> None:
    """Draw a column of costs: a bar for each row, with its number and its change above."""
    scale = cost_scale(plot.rows, column)
    axes.set_xlim(scale.low, scale.high)
    _set_rows(axes, ROW * len(plot.rows))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    title = plot.cost_titles[column]
    write(axes, title, (0, 1), ("axes fraction", "axes fraction"), (0, 8), colour=FAINT)
    for i, row in enumerate(plot.rows):
        _cost(axes, scale, row.costs[column], _place(i))


def _cost(axes: Axes, scale: Scale, cost: CostBar, middle: float) -> None:
    text = (0, middle - 0.15 * ROW)
    if cost.value is None:
        write(
            axes,
            _wrap(cost.text, VERDICT_LINE),
            (0, middle),
            ROW_COORDS,
            size=SMALL - 1,
            colour=FAINT,
        )
        return
    bar = middle + 0.26 * ROW
    axes.barh(bar, cost.value, height=0.16 * ROW, color=BAR)
    if cost.interval is not None:
        part = scale.clip(cost.interval)
        axes.plot([part.low, part.high], [bar, bar], color=INK, linewidth=0.8)
        _arrows(axes, part, bar, INK, 3)
    write(axes, cost.text, text, ROW_COORDS)
    colour = VERDICTS[cost.verdict].colour if cost.verdict in RESOLVED else FAINT
    write(
        axes, cost.change, text, ROW_COORDS, (72 * (widest([cost.text]) + 0.06), 0), colour=colour
    )
