"""Loss against steps and against time: a panel per parallelism, a line per entry, named at its end."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.report.accounting import Entry
from harness.report.figures.canvas import (
    FAINT,
    HEAD,
    INK,
    MIN_SPAN,
    SMALL,
    add_axes,
    new_figure,
    text_sizes,
    thousands,
    widest,
)
from harness.report.figures.labels import spread
from harness.report.figures.look import Look
from harness.report.statistics import running_mean

SETTLED = 0.3  # the y axis shows all that happens from this share of the steps on; what is higher before is cut off
MINUTES_FROM, HOURS_FROM = 600.0, 3 * 3600.0  # seconds from which on time is shown in these
MAX_COLUMNS, MAX_POINTS = 4, 400
PANEL_WIDTH, PANEL_HEIGHT = 2.7, 2.5
LEFT, BOTTOM, TITLE = 0.62, 0.5, 0.24
LEADER = 0.2  # inches between a panel's edge and its labels
LINE_HEIGHT = 0.145


@dataclass(frozen=True)
class Curve:
    """The mean over an entry's done seeds with the lowest and highest of them, arrays of shape (n_points,)."""

    entry: Entry
    step: np.ndarray
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


Kind = Callable[[Entry, bool], Curve]


def validation(entry: Entry, against_time: bool) -> Curve:
    """Return the curve of the evaluations; against time, x is the seeds' mean time at each of them."""
    runs = [run.evals for run in entry.done]
    n = min(len(run.step) for run in runs)
    x = np.mean([run.train_s[:n] for run in runs], axis=0)
    return _curve(entry, runs[0].step[:n], x if against_time else None, np.array([run.val_loss[:n] for run in runs]))


def training(entry: Entry, against_time: bool) -> Curve:
    """Return the curve of the training loss, each seed's smoothed by a running mean over `smoothing` steps."""
    runs = [run.steps for run in entry.done]
    n = min(len(run) for run in runs)
    losses = np.array([running_mean(run.loss[:n], smoothing(n)) for run in runs])
    time = np.mean([np.cumsum(run.step_s[:n]) for run in runs], axis=0)
    return _curve(entry, runs[0].step[:n] + 1, time if against_time else None, losses)  # steps done, as in evaluations


def smoothing(n_steps: int) -> int:
    """Return the odd number of steps over which a training curve of that length is averaged for view."""
    return n_steps // 40 // 2 * 2 + 1


def time_unit(longest_s: float) -> tuple[float, str]:
    """Return the unit in which to show times up to `longest_s`: its seconds and its name."""
    if longest_s < MINUTES_FROM:
        return 1.0, "s"
    return (60.0, "min") if longest_s < HOURS_FROM else (3600.0, "h")


def _curve(entry: Entry, step: np.ndarray, time: np.ndarray | None, losses: np.ndarray) -> Curve:
    keep = np.unique(np.linspace(0, len(step) - 1, min(len(step), MAX_POINTS)).round().astype(int))
    losses, x = losses[:, keep], (step if time is None else time)[keep]
    return Curve(entry, step[keep], x, losses.mean(axis=0), losses.min(axis=0), losses.max(axis=0))


def draw(
    entries: Sequence[Entry], kind: Kind, look: Look, title: str, subtitle: str, against_time: bool, floor: float | None
) -> Figure:
    """Draw the curves of the entries that have any, in panels with shared axes; `floor` is a loss to mark."""
    curves = [kind(entry, against_time) for entry in entries if entry.done]
    x_label = "steps"
    if against_time:
        unit, name = time_unit(max(float(curve.x[-1]) for curve in curves))
        curves, x_label = [replace(curve, x=curve.x / unit) for curve in curves], f"training time, {name}"
    panels: dict[str, list[Curve]] = {}
    for curve in curves:
        panels.setdefault(look.panel(curve.entry), []).append(curve)
    n_columns = _columns(look, len(panels))
    n_rows = -(-len(panels) // n_columns)
    names = [look.within_panel(curve.entry) for curve in curves]
    gutter = widest(names) + LEADER + 0.22
    height = max(PANEL_HEIGHT, max(map(len, panels.values())) * LINE_HEIGHT + 0.3)
    head = HEAD + (TITLE if look.panel_axes else 0.0)
    step_x, step_y = PANEL_WIDTH + gutter, height + TITLE + 0.32
    width = max(LEFT + n_columns * step_x, 0.3 + widest([subtitle]), 0.3 + 1.45 * widest([title]))
    figure = new_figure(width, head + n_rows * step_y + BOTTOM - 0.44, title, subtitle)
    limits = _y_limits(curves, floor)
    right = max(float(curve.x[-1]) for curve in curves)

    for i, (name, members) in enumerate(panels.items()):
        row, column = divmod(i, n_columns)
        axes = add_axes(figure, LEFT + column * step_x, head + row * step_y, PANEL_WIDTH, height)
        axes.set_title(name, loc="left", fontsize=9, fontweight="bold", pad=5)
        axes.set_xlim(0, right or 1)
        axes.set_ylim(*limits)
        axes.xaxis.set_major_formatter(thousands())
        axes.locator_params(axis="x", nbins=5)
        if i + n_columns >= len(panels):
            axes.set_xlabel(x_label)
        if column == 0:
            axes.set_ylabel("loss, nats per token")
        else:
            axes.tick_params(labelleft=False)
        for curve in members:
            _line(axes, curve, look)
        if floor is not None:
            _mark_floor(axes, floor)
        _name_missing(axes, [e for e in entries if not e.done and look.panel(e) == name], look)
        _name_ends(axes, members, look, height)
    return figure


def _columns(look: Look, n_panels: int) -> int:
    last = len(look.levels[look.panel_axes[-1]]) if look.panel_axes else 1
    return min(n_panels, last if last <= MAX_COLUMNS else MAX_COLUMNS - 1)


def _y_limits(curves: Iterable[Curve], floor: float | None) -> tuple[float, float]:
    shown = [
        (c.low[c.step >= SETTLED * c.step[-1]].min(), c.high[c.step >= SETTLED * c.step[-1]].max()) for c in curves
    ]
    low, high = min(low for low, _ in shown), max(high for _, high in shown)
    spare = max(0.0, MIN_SPAN - (high - low)) / 2
    low, high = low - spare, high + spare
    span = high - low
    if floor is not None and low - span < floor < low:
        low = floor  # near enough to be shown without squeezing the curves
    return float(low - 0.09 * span), float(high + 0.04 * span)


def _line(axes: Axes, curve: Curve, look: Look) -> None:
    colour = look.colour(curve.entry)
    if len(curve.entry.done) > 1:
        axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.14, linewidth=0)
    every = max(1, len(curve.x) // 8)
    axes.plot(curve.x, curve.mean, color=colour, linestyle=look.dash(curve.entry), linewidth=1.5,
              marker=look.line_marker(curve.entry), markersize=4, markevery=every)  # fmt: skip


def _mark_floor(axes: Axes, loss: float) -> None:
    low, high = axes.get_ylim()
    if low <= loss <= high:
        axes.axhline(loss, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
        axes.annotate(f"lowest reachable: {loss:.3f}", (0.0, loss), (4, 2.5), va="bottom", fontsize=7, color=FAINT,
                      xycoords=("axes fraction", "data"), textcoords="offset points")  # fmt: skip


def _name_missing(axes: Axes, entries: list[Entry], look: Look) -> None:
    """Say which entries a reader would look for in vain."""
    names = [look.within_panel(entry) for entry in entries]
    if names:
        text = "\n".join(["no result:", *names]) if len(names) <= 3 else f"no result: {len(names)} entries"
        axes.text(0.97, 0.96, text, transform=axes.transAxes, ha="right", va="top", fontsize=7, fontstyle="italic",
                  color=FAINT)  # fmt: skip


def _name_ends(axes: Axes, curves: list[Curve], look: Look, height: float) -> None:
    """Write each line's name right of the panel, led to from the line's end, none over another."""
    low, high = axes.get_ylim()
    right = axes.get_xlim()[1]
    ends = [min(max(float(curve.mean[-1]), low), high) for curve in curves]
    inch = (high - low) / height  # of loss
    text_height = text_sizes(["Ag"])[0][1]
    margin = text_height / 2 * inch
    places = spread(ends, LINE_HEIGHT * inch, low + margin, high - margin)
    per_inch = 1 / PANEL_WIDTH  # of the axes' width
    for curve, end, place in zip(curves, ends, places, strict=True):
        colour = look.colour(curve.entry)
        if curve.x[-1] < right * 0.995:
            axes.plot([curve.x[-1], right], [end, end], color=colour, linewidth=0.6, alpha=0.55, linestyle=(0, (1, 2)))
        bend, tip = 1 + 0.6 * LEADER * per_inch, 1 + 0.9 * LEADER * per_inch
        axes.plot([1, bend, tip], [end, place, place], color=colour, linewidth=1.0, clip_on=False, markersize=4,
                  marker=look.line_marker(curve.entry), markevery=[2],
                  transform=axes.get_yaxis_transform())  # fmt: skip
        axes.text(1 + (LEADER + 0.05) * per_inch, place, look.within_panel(curve.entry), fontsize=SMALL,
                  va="center_baseline", transform=axes.get_yaxis_transform())  # fmt: skip
