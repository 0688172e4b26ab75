"""Loss against the length of sequences, and against the position in them: a line per entry, named at its end."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator

from harness.analysis import eval_lengths as report
from harness.analysis.dataset import Entry
from harness.analysis.summary import Summary
from harness.report.charts.curves import Curve, end, line, y_limits
from harness.report.charts.mpl_setup import FAINT, INK, thousands
from harness.report.charts.small_multiples import (
    End,
    grid,
    in_one_panel,
    name_ends,
    name_missing,
    of_one_parallelism,
    scale_powers,
)
from harness.report.charts.style import Look

BINS_PER_DOUBLING = 2  # of the position, over which losses are averaged for view
NAMED, NAMED_LEFT = (
    0.09,
    0.3,
)  # shares: of the height, for the mark's name; of the width, where it fits left of it
SETTLED = 0.05  # the y axis shows all that happens from this share of the sequence on
Y_LABEL = "loss, nats per token"


def shown(summary: Summary) -> list[Entry]:
    """Return the entries that have a line."""
    return of_one_parallelism(
        summary.study, (e for e in summary.study.entries if summary.lengths[e.label])
    )


def defined(summary: Summary) -> list[int]:
    """Return the lengths at which some line has a point, the shortest first."""
    return sorted(
        {
            at.length
            for entry in shown(summary)
            for at in summary.lengths[entry.label]
            if at.val_loss
        }
    )


def trained(summary: Summary) -> int:
    """Return the length of the sequences of the training."""
    return summary.study.spec.model.seq_len if summary.study.spec else 0


def panel_lengths(summary: Summary) -> list[int]:
    """Return the lengths of which positions are shown: the longest within the trained one, and the longest of all."""
    found = defined(summary)
    within = [length for length in found if length <= trained(summary)]
    return sorted({*within[-1:], found[-1]})


def against_length(summary: Summary, look: Look, subtitle: str) -> Figure:
    """Draw the mean loss of each entry at each length."""
    entries, lengths = shown(summary), defined(summary)
    look = in_one_panel(look, entries)
    curves = [_by_length(entry, lengths) for entry in entries]
    names = {"": [look.within_panel(entry) for entry in entries]}
    x_label = "length of the sequences, tokens"
    figure, (axes,) = grid(names, 1, "Loss against length", subtitle, x_label, Y_LABEL, own_y=True)
    scale_powers(axes, sorted({*lengths, trained(summary)}))
    curves = _scale(axes, curves, look, settled=0.0)
    for curve in curves:
        line(axes, curve, look)
        axes.plot(
            curve.x,
            curve.mean,
            linestyle="",
            marker=look.point_marker(curve.entry),
            markersize=4,
            color=look.colour(curve.entry),
        )
    _mark_trained(axes, trained(summary))
    ends = [
        End(curve.entry, curve.x[-1], curve.mean[-1], look.point_marker(curve.entry))
        for curve in curves
    ]
    name_ends(axes, ends, look)
    return figure


def against_position(summary: Summary, look: Look, subtitle: str) -> Figure:
    """Draw the loss of each entry along the sequence, in a panel for each length of `panel_lengths`."""
    entries, lengths = shown(summary), panel_lengths(summary)
    look = in_one_panel(look, entries)
    panels = {
        f"length {length:,}": [_by_position(entry, length) for entry in entries]
        for length in lengths
    }
    names = {title: [look.within_panel(entry) for entry in entries] for title in panels}
    figure, all_axes = grid(
        names, len(panels), "Loss by position", subtitle, "position, tokens", Y_LABEL, own_y=True
    )
    for axes, length, curves in zip(all_axes, lengths, panels.values(), strict=True):
        axes.set_xscale("log", base=2)
        axes.set_xlim(1, max(2, length))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(thousands())
        curves = _scale(axes, curves, look, SETTLED)
        for curve in curves:
            line(axes, curve, look)
        _mark_trained(axes, trained(summary))
        name_ends(axes, [end(curve, look) for curve in curves], look)
    return figure


def _scale(axes: Axes, curves: Sequence[Curve], look: Look, settled: float) -> list[Curve]:
    """Set the y axis, name the curves without a point, and return the others."""
    found = [curve for curve in curves if len(curve.x)]
    missing = [look.within_panel(curve.entry) for curve in curves if not len(curve.x)]
    lowest, taken = (
        min(curve.low.min() for curve in found),
        name_missing(axes, missing, "not defined"),
    )
    low, high = y_limits(found, lowest, settled)
    axes.set_ylim(low, low + (high - low) / (1 - max(taken, NAMED)))
    return found


def _mark_trained(axes: Axes, length: int) -> None:
    low, high = np.log(axes.get_xlim())
    share = (np.log(length) - low) / (high - low)
    if share <= 1:
        aside, side = (-3, "right") if share > NAMED_LEFT else (3, "left")
        axes.axvline(length, color=INK, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        axes.annotate(
            f"trained: {length:,}",
            (length, 0.96),
            (aside, 0),
            ha=side,
            va="top",
            fontsize=7,
            color=FAINT,
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )


def _curve(entry: Entry, x: np.ndarray, losses: Sequence[np.ndarray]) -> Curve:
    """Return the curve of some points, of each of which there are the losses of some seeds."""
    ends = np.array([(seeds.mean(), seeds.min(), seeds.max()) for seeds in losses]).reshape(-1, 3).T
    return Curve(entry, x, x, *ends)


def _by_length(entry: Entry, lengths: Sequence[int]) -> Curve:
    found = {
        length: np.array([losses.val_loss for losses in report.defined(entry, length).values()])
        for length in lengths
    }
    found = {length: losses for length, losses in found.items() if len(losses)}
    return _curve(entry, np.array(list(found)), list(found.values()))


def _by_position(entry: Entry, length: int) -> Curve:
    found = [losses.by_position for losses in report.defined(entry, length).values()]
    if not found:
        return _curve(entry, np.empty(0), [])
    smoothed = [smooth(losses, length) for losses in found if len(losses) == len(found[0])]
    return _curve(entry, smoothed[0][0], list(np.array([losses for _, losses in smoothed]).T))


def smooth(by_position: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss over bins of positions that widen with the position: their middles, and their means."""
    first, last = np.array(report.positions(length, len(by_position))).T
    bins = np.floor(
        np.log2(length / last) * BINS_PER_DOUBLING
    )  # from the end, where the last one is whole
    starts = np.flatnonzero(np.diff(bins, prepend=np.inf))
    n = last - first + 1
    means = np.add.reduceat(by_position * n, starts) / np.add.reduceat(n, starts)
    return np.sqrt(first[starts] * last[np.append(starts[1:], len(first)) - 1]), means
