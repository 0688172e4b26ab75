"""Charts with a row per entry or effect: stacked bars, and intervals with verdicts."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from harness.report.charts.mpl.setup import (
    FAINT,
    GRID,
    HEAD,
    INK,
    MARKERS,
    add_axes,
    new_figure,
    set_scale,
    widest,
    write,
)
from harness.report.charts.spec import BarRow, Bars, ChartSpec, Intervals, Part
from harness.report.charts.style import PREDICTED

ROW = 0.26  # inches, as all that follow
GROUP_GAP = 0.14
BOTTOM = 0.5
LEGEND = 0.3
BARS_WIDTH = 5.6
INTERVALS_WIDTH = 4.6
THICKNESS = 0.72  # of a row's height


def draw_bars(spec: ChartSpec, plot: Bars) -> Figure:
    """Draw a row per entry; those without a bar show their note."""
    has_legend = len(plot.parts) > 1
    texts = widest([row.text for row in plot.rows]) + 0.2
    figure, axes, places = _rows(spec, plot, BARS_WIDTH, above=LEGEND if has_legend else 0.0)
    ends = [0.0]
    for row, place in zip(plot.rows, places, strict=True):
        if not row.values:
            write(axes, row.note, (0, place), offset=(5, 0), colour=FAINT, italic=True)
            continue
        _stack(axes, row, place, plot.parts)
        end = max(sum(row.values), row.interval[1] if row.interval else 0.0)
        write(axes, row.text, (end, place), offset=(5, 0))
        ends += [end, row.predicted or 0.0]
    axes.set_xlim(0, max(ends) / (1 - texts / BARS_WIDTH) or 1)
    if has_legend:
        _legend(figure, axes, plot.parts)
    return figure


def draw_intervals(spec: ChartSpec, plot: Intervals) -> Figure:
    """Draw a row per estimate: its marker, its interval and its verdict as a word."""
    right = widest([row.verdict for row in plot.rows]) + 0.3
    figure, axes, places = _rows(spec, plot, INTERVALS_WIDTH, right=right)
    if plot.band is not None:
        axes.axvspan(*plot.band, color=GRID, linewidth=0)
    if plot.threshold is not None:
        axes.axvline(plot.threshold, color=INK, linewidth=0.8, linestyle="dashed")
    axes.axvline(0, color=INK, linewidth=0.8)
    for row, place in zip(plot.rows, places, strict=True):
        colour = row.style.colour
        is_open = row.style.marker.endswith("-open")
        axes.plot(row.interval, [place, place], color=colour, linewidth=1.6)
        axes.plot(
            row.value,
            place,
            MARKERS[row.style.marker],
            color=colour,
            markerfacecolor="white" if is_open else colour,
            markersize=4.5,
        )
        write(axes, row.verdict, (1, place), ("axes fraction", "data"), (5, 0), colour=colour)
    if plot.x.limits is not None:
        axes.set_xlim(plot.x.limits)
    for i, side in plot.cut_ends():
        assert plot.x.limits is not None
        end = plot.x.limits[0 if side == "low" else 1]
        arrow = "<" if side == "low" else ">"
        colour = plot.rows[i].style.colour
        axes.plot(end, places[i], arrow, color=colour, markersize=5, clip_on=False)
    return figure


def _rows(
    spec: ChartSpec, plot: Bars | Intervals, width: float, right: float = 0.2, above: float = 0.0
) -> tuple[Figure, Axes, list[float]]:
    """Return a figure with a named row per row, and each row's place in inches from the top."""
    names = [row.name for row in plot.rows]
    places = row_places([row.group for row in plot.rows])
    left = widest(names) + 0.3
    height = places[-1] + ROW * 0.7
    figure = new_figure(
        left + width + right, HEAD + above + height + BOTTOM, spec.title, spec.subtitle
    )
    axes = add_axes(figure, left, HEAD + above, width, height)
    axes.set_ylim(height, 0)
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", length=0, labelcolor="black")
    axes.grid(axis="y", visible=False)
    set_scale(axes, "x", plot.x)
    axes.set_xlabel(plot.x.label)
    return figure, axes, places


def row_places(groups: Sequence[str]) -> list[float]:
    """Return each row's middle in inches from the top, with a gap where the group changes."""
    places: list[float] = []
    for i, group in enumerate(groups):
        gap = GROUP_GAP if i and group != groups[i - 1] else 0.0
        places.append(places[-1] + ROW + gap if places else ROW * 0.7)
    return places


def _stack(axes: Axes, row: BarRow, place: float, parts: Sequence[Part]) -> None:
    starts = np.cumsum([0.0, *row.values[:-1]])
    for part, start, value in zip(parts, starts, row.values, strict=True):
        if not value:
            continue
        box = _box(part, row.colour)
        box.set_bounds(float(start), place - ROW * THICKNESS / 2, value, ROW * THICKNESS)
        axes.add_patch(box)
    if row.interval:
        _draw_interval(axes, row.interval, place)
    if row.predicted is not None:
        ends = [place - ROW * 0.42, place + ROW * 0.42]
        axes.plot([row.predicted] * 2, ends, color=PREDICTED, linewidth=1.4)


def _box(part: Part, row_colour: str) -> Rectangle:
    """Return a box that looks as the part does."""
    return Rectangle(
        (0, 0),
        0,
        0,
        facecolor="white" if part.hatched else part.colour or row_colour,
        edgecolor=INK if part.hatched else "white",
        hatch="//////" if part.hatched else None,
        linewidth=0.5,
    )


def _draw_interval(axes: Axes, interval: tuple[float, float], place: float) -> None:
    axes.plot(interval, [place, place], color="white", linewidth=2.6, solid_capstyle="butt")
    axes.plot(interval, [place, place], color="black", linewidth=1.2, solid_capstyle="butt")
    for end in interval:
        cap = [place - ROW * 0.16, place + ROW * 0.16]
        axes.plot([end, end], cap, color="black", linewidth=1.2)


def _legend(figure: Figure, axes: Axes, parts: Sequence[Part]) -> None:
    """Name the parts of the bars above the axes."""
    height = axes.get_position().height * figure.get_size_inches()[1]
    handles = [_box(part, INK) for part in parts]
    names = [part.name for part in parts]
    anchor = (0, 1 + 0.04 / height)
    axes.legend(handles, names, ncols=len(parts), loc="lower left", bbox_to_anchor=anchor)
