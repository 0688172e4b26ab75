"""Loss against steps and against time: a panel per parallelism, a line per entry, named at its end."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.dataset import Entry
from harness.analysis.intervals import running_mean
from harness.report.charts.mpl_setup import FAINT, INK, MIN_SPAN
from harness.report.charts.small_multiples import MAX_COLUMNS, End, grid, name_ends, name_missing
from harness.report.charts.style import Look

SETTLED = 0.3  # the y axis shows all that happens from this share of the steps on; what is higher before is cut off
MINUTES_FROM, HOURS_FROM = 600.0, 3 * 3600.0  # seconds from which on time is shown in these
MAX_POINTS = 400


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
    return _curve(
        entry,
        runs[0].step[:n],
        x if against_time else None,
        np.array([run.val_loss[:n] for run in runs]),
    )


def training(entry: Entry, against_time: bool) -> Curve:
    """Return the curve of the training loss, each seed's smoothed by a running mean over `smoothing` steps."""
    runs = [run.steps for run in entry.done]
    n = min(len(run) for run in runs)
    losses = np.array([running_mean(run.loss[:n], smoothing(n)) for run in runs])
    time = np.mean([np.cumsum(run.step_s[:n]) for run in runs], axis=0)
    return _curve(
        entry, runs[0].step[:n] + 1, time if against_time else None, losses
    )  # steps done, as in evaluations


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
    entries: Sequence[Entry],
    kind: Kind,
    look: Look,
    title: str,
    subtitle: str,
    against_time: bool,
    floor: float | None,
) -> Figure:
    """Draw the curves of the entries that have any, in panels with shared axes; `floor` is a loss to mark."""
    curves = [kind(entry, against_time) for entry in entries if entry.done]
    x_label = "steps"
    if against_time:
        unit, name = time_unit(max(float(curve.x[-1]) for curve in curves))
        curves, x_label = (
            [replace(curve, x=curve.x / unit) for curve in curves],
            f"training time, {name}",
        )
    panels: dict[str, list[Curve]] = {}
    for curve in curves:
        panels.setdefault(look.panel(curve.entry), []).append(curve)
    names = {
        title: [look.within_panel(curve.entry) for curve in members]
        for title, members in panels.items()
    }
    y_label = "loss, nats per token"
    figure, all_axes = grid(names, _columns(look, len(panels)), title, subtitle, x_label, y_label)
    limits = y_limits(curves, floor)
    right = max(float(curve.x[-1]) for curve in curves)

    for axes, (panel, members) in zip(all_axes, panels.items(), strict=True):
        axes.set_xlim(0, right or 1)
        axes.set_ylim(*limits)
        axes.locator_params(axis="x", nbins=5)
        for curve in members:
            line(axes, curve, look)
        if floor is not None:
            _mark_floor(axes, floor)
        missing = [entry for entry in entries if not entry.done and look.panel(entry) == panel]
        name_missing(axes, [look.within_panel(entry) for entry in missing], "no result")
        name_ends(axes, [end(curve, look) for curve in members], look)
    return figure


def _columns(look: Look, n_panels: int) -> int:
    last = len(look.levels[look.panel_axes[-1]]) if look.panel_axes else 1
    return min(n_panels, last if last <= MAX_COLUMNS else MAX_COLUMNS - 1)


def y_limits(
    curves: Iterable[Curve], floor: float | None, settled: float = SETTLED
) -> tuple[float, float]:
    """Return limits within which all lies that happens from the share `settled` of a curve's steps on."""
    late = [(curve, curve.step >= settled * curve.step[-1]) for curve in curves]
    shown = [(curve.low[at].min(), curve.high[at].max()) for curve, at in late]
    low, high = min(low for low, _ in shown), max(high for _, high in shown)
    spare = max(0.0, MIN_SPAN - (high - low)) / 2
    low, high = low - spare, high + spare
    span = high - low
    if floor is not None and low - span < floor < low:
        low = floor  # near enough to be shown without squeezing the curves
    return float(low - 0.09 * span), float(high + 0.04 * span)


def line(axes: Axes, curve: Curve, look: Look) -> None:
    """Draw a curve, and the band of its seeds where there are several."""
    colour = look.colour(curve.entry)
    if len(curve.entry.done) > 1:
        axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.14, linewidth=0)
    every = max(1, len(curve.x) // 8)
    axes.plot(
        curve.x,
        curve.mean,
        color=colour,
        linestyle=look.dash(curve.entry),
        linewidth=1.5,
        marker=look.line_marker(curve.entry),
        markersize=4,
        markevery=every,
    )


def end(curve: Curve, look: Look) -> End:
    """Return where a curve's name is led from."""
    return End(
        curve.entry, float(curve.x[-1]), float(curve.mean[-1]), look.line_marker(curve.entry)
    )


def _mark_floor(axes: Axes, loss: float) -> None:
    low, high = axes.get_ylim()
    if low <= loss <= high:
        axes.axhline(loss, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
        axes.annotate(
            f"lowest reachable: {loss:.3f}",
            (0.0, loss),
            (4, 2.5),
            va="bottom",
            fontsize=7,
            color=FAINT,
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
        )
