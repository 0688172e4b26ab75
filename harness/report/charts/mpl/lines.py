"""Small multiples: a panel per plot, each line named at its end."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.report.charts.mpl.label_placement import spread
from harness.report.charts.mpl.setup import (
    DASHES,
    DPI,
    FAINT,
    GRID,
    HEAD,
    INK,
    MARKERS,
    Coords,
    add_axes,
    new_figure,
    set_scale,
    text_sizes,
    widest,
    write,
)
from harness.report.charts.spec import Axis, ChartSpec, Interval, Line, Lines, Panel, beyond

PANEL_WIDTH = 2.7  # inches, as all that follow
STACKED_WIDTH = 6.2
STACKED_HEIGHT = 2.7
PANEL_HEIGHT = 2.5
LEFT = 0.62
WIDE_LEFT = 0.84  # if each panel has its own y axis
BOTTOM = 0.5
TITLE = 0.24
BETWEEN = 0.22
LEADER = 0.2  # between a panel's edge and the names of its lines
LINE_HEIGHT = 0.145
NOTE_SIZE = 7.0  # points
LABEL_HEADROOM = 0.09  # of the panel's height, for the label of a vertical line
LABEL_ROOM = 0.3  # of the panel's width, from which a label fits left of its line
SHIFT = 0.02  # of the gap between x values, from one line's bars to the next line's
MAX_SHIFT = 0.12  # of the gap between x values, over all lines
LONE_WIDTH = 0.8  # powers of two over which bars at a single x value are spread
DOTTED = (0, (2, 2))
WIDTHS = {"thick": 2.4, "normal": 1.5, "faint": 0.7}  # points
FRACTIONS: tuple[Coords, Coords] = ("axes fraction", "axes fraction")
LONE_MARGIN = math.sqrt(2)  # factor between a single x value and the limits


def draw(spec: ChartSpec, plot: Lines) -> Figure:
    """Draw all panels."""
    figure, all_axes = _grid(spec, plot)
    for axes, panel in zip(all_axes, plot.panels, strict=True):
        _draw_panel(axes, panel, expand=not plot.shared_axes)
    return figure


def _grid(spec: ChartSpec, plot: Lines) -> tuple[Figure, list[Axes]]:
    """Return a figure with empty axes per panel and room for the names of the lines."""
    left, between = (LEFT, BETWEEN) if plot.shared_axes else (WIDE_LEFT, WIDE_LEFT)
    width = STACKED_WIDTH if plot.stacked else PANEL_WIDTH
    named = [[line for line in panel.lines if line.named] for panel in plot.panels]
    names = [_end_text(line) for lines in named for line in lines]
    height = STACKED_HEIGHT if plot.stacked else PANEL_HEIGHT
    height = max(height, max(len(lines) for lines in named) * LINE_HEIGHT + 0.3)
    head = HEAD + (TITLE if any(panel.title for panel in plot.panels) else 0.0)
    step_x = width + widest(names) + LEADER + between
    step_y = height + TITLE + 0.32
    n_rows = -(-len(plot.panels) // plot.columns)
    figure = new_figure(
        left + plot.columns * step_x - between + BETWEEN,
        head + n_rows * step_y + BOTTOM - 0.44,
        spec.title,
        spec.subtitle,
    )
    all_axes = []
    for i, panel in enumerate(plot.panels):
        row, column = divmod(i, plot.columns)
        axes = add_axes(figure, left + column * step_x, head + row * step_y, width, height)
        axes.set_title(panel.title, loc="left", fontsize=9, fontweight="bold", pad=5)
        if i + plot.columns >= len(plot.panels):
            axes.set_xlabel(panel.x.label)
        if column == 0:
            axes.set_ylabel(panel.y.label)
        axes.tick_params(labelleft=column == 0 or not plot.shared_axes)
        if plot.stacked:
            axes.tick_params(labelbottom=row == n_rows - 1)
        all_axes.append(axes)
    return figure, all_axes


def _draw_panel(axes: Axes, panel: Panel, expand: bool) -> None:
    set_scale(axes, "x", panel.x)
    set_scale(axes, "y", panel.y)
    if not panel.x.ticks:
        axes.locator_params(axis="x", nbins=5)
    axes.set_xlim(panel.x.limits or _tick_limits(panel.x.ticks))
    note_height = _note_missing(axes, panel)
    has_label = any(reference.axis == "x" for reference in panel.references)
    if panel.y.limits:
        headroom = max(note_height, LABEL_HEADROOM * has_label) if expand else 0.0
        axes.set_ylim(_with_headroom(panel.y, panel.y.limits, headroom))
    if panel.band is not None:
        axes.axhspan(*panel.band, color=GRID, linewidth=0)
    ends = []
    for line, factor in zip(panel.lines, _shifts(panel), strict=True):
        x = np.array(line.x) * factor
        _draw_line(axes, line, x)
        if panel.marks_beyond and panel.y.limits and line.weight != "faint":
            _mark_beyond(axes, line, panel.y.limits)
        if line.named:
            ends.append((x[-1], line.y[-1]))
    for reference in panel.references:
        if reference.axis == "x":
            _mark_x(axes, reference.value, reference.label, note_height)
        else:
            _mark_y(axes, reference.value, reference.label)
    _name_ends(axes, [line for line in panel.lines if line.named], ends)


def _tick_limits(ticks: Sequence[float]) -> Interval:
    """Return x limits with a margin around the ticks of an axis in powers of two."""
    margin = LONE_MARGIN if len(ticks) == 1 else (ticks[-1] / ticks[0]) ** 0.08
    return ticks[0] / margin, ticks[-1] * margin


def _with_headroom(axis: Axis, limits: Interval, fraction: float) -> Interval:
    """Return the limits with a fraction of the axis added at the top."""
    low, high = limits
    if axis.log2:
        return low, low * (high / low) ** (1 / (1 - fraction))
    return low, low + (high - low) / (1 - fraction)


def _shifts(panel: Panel) -> list[float]:
    """Return the factor on each line's x values that keeps bars at the same x value apart."""
    barred = [line for line in panel.lines if line.spread == "bars" and line.joined]
    if not panel.x.log2 or not barred:
        return [1.0] * len(panel.lines)
    ticks = np.log2(panel.x.ticks)
    gap = float(np.diff(ticks).min()) if len(ticks) > 1 else LONE_WIDTH
    width = gap * min(SHIFT * len(barred), MAX_SHIFT) if len(ticks) > 1 else gap
    factors = []
    for line in panel.lines:
        place = (barred.index(line) + 0.5) / len(barred) - 0.5 if line in barred else 0.0
        factors.append(2.0 ** (width * place))
    return factors


def _end_text(line: Line) -> str:
    return f"{line.name}  {line.value}" if line.value else line.name


def _mark_beyond(axes: Axes, line: Line, limits: Interval) -> None:
    """Mark at the edge where a line is beyond the limits."""
    for x, side in beyond(line, limits):
        edge = limits[0 if side == "low" else 1]
        marker = "v" if side == "low" else "^"
        axes.plot(x, edge, marker, color=line.style.colour, markersize=5, clip_on=False, zorder=4)


def _draw_line(axes: Axes, line: Line, x: np.ndarray) -> None:
    colour = line.style.colour
    if line.low and line.spread == "band":
        axes.fill_between(x, line.low, line.high, color=colour, alpha=0.14, linewidth=0)
    elif line.low:
        axes.vlines(x, line.low, line.high, color=colour, linewidth=1.0)
    axes.plot(
        x,
        line.y,
        color=colour,
        linestyle=DASHES[line.style.dash] if line.joined else "none",
        linewidth=WIDTHS[line.weight],
        alpha=0.5 if line.weight == "faint" else 1.0,
        marker=_marker(line),
        markersize=4,
        markevery=1 if line.markers == "all" else max(1, len(x) // 8),
    )
    if line.ringed:
        rings = (x[list(line.ringed)], np.array(line.y)[list(line.ringed)])
        axes.plot(*rings, "o", markersize=9, markerfacecolor="none", markeredgecolor=INK)


def _marker(line: Line) -> str:
    return "" if line.markers == "none" else MARKERS[line.style.marker]


def _note_missing(axes: Axes, panel: Panel) -> float:
    """Name the missing entries; return the fraction of the panel's height that this takes."""
    text = panel.missing_note
    if not text:
        return 0.0
    write(axes, text, (0.97, 0.96), FRACTIONS, (0, 0), NOTE_SIZE, FAINT, "right", "top", True)
    return 0.06 + text_sizes([text], NOTE_SIZE)[0][1] * DPI / axes.bbox.height


def _mark_x(axes: Axes, value: float, label: str, taken: float) -> None:
    """Mark a value on the x axis; its label goes below what takes a fraction of the top."""
    to_axes = axes.transData - axes.transAxes
    on_left = to_axes.transform((value, axes.get_ylim()[1]))[0] > LABEL_ROOM
    axes.axvline(value, color=INK, linewidth=0.9, linestyle=DOTTED, zorder=1)
    place = (value, 0.96 - taken)
    ha: Literal["left", "right"] = "right" if on_left else "left"
    offset = (-3 if on_left else 3, 0)
    write(axes, label, place, ("data", "axes fraction"), offset, NOTE_SIZE, FAINT, ha, "top")


def _mark_y(axes: Axes, value: float, label: str) -> None:
    """Mark a value on the y axis; beyond the limits, state it at the edge."""
    low, high = axes.get_ylim()
    if low <= value <= high:
        axes.axhline(value, color=INK, linewidth=0.9, linestyle=DOTTED, zorder=1.5)
        coords: tuple[Coords, Coords] = ("axes fraction", "data")
        write(axes, label, (0, value), coords, (4, 2.5), NOTE_SIZE, FAINT, va="bottom")
    elif label:
        is_below = value < low
        text = f"{label}, {'below' if is_below else 'above'} this axis"
        place = (0, 0.0 if is_below else 1.0)
        va: Literal["top", "bottom"] = "bottom" if is_below else "top"
        offset = (4, 3 if is_below else -3)
        write(axes, text, place, FRACTIONS, offset, NOTE_SIZE, FAINT, va=va)


def _name_ends(axes: Axes, lines: Sequence[Line], ends: Sequence[tuple[float, float]]) -> None:
    """Write the names of the lines right of the panel, connected to their ends, without overlap."""
    height = axes.bbox.height / DPI
    to_axes = axes.transData - axes.transAxes
    ends_xy = to_axes.transform(ends).clip(0, 1)
    margin = text_sizes(["Ag"])[0][1] / 2
    wanted = (ends_xy[:, 1] * height).tolist()
    places = spread(wanted, LINE_HEIGHT, margin, height - margin)
    width = axes.bbox.width / DPI
    bend = 1 + 0.6 * LEADER / width
    tip = 1 + 0.9 * LEADER / width
    text = 1 + (LEADER + 0.05) / width
    panel = axes.transAxes
    for line, (x, y), inches in zip(lines, ends_xy, places, strict=True):
        place = inches / height
        colour = line.style.colour
        axes.plot([x, 1], [y, y], c=colour, lw=0.6, alpha=0.55, ls=(0, (1, 2)), transform=panel)
        (leader,) = axes.plot([1, bend, tip], [y, place, place], c=colour, lw=1, transform=panel)
        leader.set(clip_on=False, marker=_marker(line), markevery=[2], markersize=4)
        write(axes, _end_text(line), (text, place), FRACTIONS)
