"""Throughput against final loss, with the entries that no other beats in both."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from harness.analysis import intervals as statistics
from harness.analysis.dataset import Entry
from harness.analysis.metrics import Result
from harness.analysis.summary import Summary
from harness.report.charts.label_placement import place
from harness.report.charts.mpl_setup import (
    DPI,
    FAINT,
    HEAD,
    MIN_SPAN,
    SMALL,
    add_axes,
    new_figure,
    text_sizes,
    thousands,
)
from harness.report.charts.style import Look

WIDTH, LEFT, BOTTOM, RIGHT = 7.6, 0.75, 0.55, 0.25
CLEARANCE = 0.06  # inches that a label keeps from a point
LOSS_DIGITS = 4  # what the report shows; a difference below that puts no entry before another


def front(results: list[Result]) -> list[bool]:
    """Tell which results are on the Pareto front of throughput and final loss."""
    return statistics.pareto(
        [
            (r.tokens_per_s.median, round(r.val_loss.mean, LOSS_DIGITS))
            for r in results
            if r.tokens_per_s and r.val_loss
        ]
    )


def draw(summary: Summary, look: Look) -> Figure:
    """Draw a point per entry with the interval of its throughput; the front's points are ringed and joined."""
    results = [result for result in summary.with_results if result.tokens_per_s]
    entries = {entry.label: entry for entry in summary.study.entries}
    best = front(results)
    height = 3.6 + 0.11 * len(results)
    subtitle = "right and down is better; ringed: beaten by no entry in both; lines: 95 % interval of the throughput"
    figure = new_figure(
        LEFT + WIDTH + RIGHT,
        HEAD + height + BOTTOM,
        "Throughput against final validation loss",
        subtitle,
    )
    axes = add_axes(figure, LEFT, HEAD, WIDTH, height)
    axes.set_xlabel("tokens per second")
    axes.set_ylabel("final validation loss, nats per token")
    axes.xaxis.set_major_formatter(thousands())
    for result, on_front in zip(results, best, strict=True):
        _point(axes, result, entries[result.entry], look, on_front)
    axes.margins(0.09, 0.09)
    axes.autoscale_view()
    low, high = axes.get_ylim()
    spare = max(0.0, MIN_SPAN - (high - low)) / 2
    limits = axes.get_xlim(), (low - spare, high + spare)
    axes.set_ylim(*limits[1])
    _front_line(axes, [result for result, on_front in zip(results, best, strict=True) if on_front])
    axes.set_xlim(*limits[0])
    axes.set_ylim(*limits[1])
    _name(figure, axes, results, best)
    return figure


def _point(axes: Axes, result: Result, entry: Entry, look: Look, on_front: bool) -> None:
    assert result.tokens_per_s and result.val_loss
    x, y, colour = result.tokens_per_s.median, result.val_loss.mean, look.colour(entry)
    axes.plot(result.tokens_per_s.ci95, [y, y], color=colour, linewidth=0.9, alpha=0.5)
    size, edge, edge_width = (7, "black", 1.4) if on_front else (6, "white", 0.6)
    axes.plot(
        [x],
        [y],
        marker=look.point_marker(entry),
        color=colour,
        markersize=size,
        markeredgecolor=edge,
        markeredgewidth=edge_width,
        zorder=3,
    )


def _front_line(axes: Axes, results: list[Result]) -> None:
    points = sorted(
        (r.tokens_per_s.median, r.val_loss.mean) for r in results if r.tokens_per_s and r.val_loss
    )
    low_x, high_y = axes.get_xlim()[0], axes.get_ylim()[1]
    xs = [low_x, *(x for x, _ in points), points[-1][0]]
    ys = [points[0][1], *(y for _, y in points), high_y]
    axes.step(xs, ys, where="pre", color=FAINT, linewidth=1.0, linestyle=(0, (3, 2)), zorder=1)


def _name(figure: Figure, axes: Axes, results: list[Result], best: list[bool]) -> None:
    """Write every point's entry beside it, the front's in bold and first; a far label is led to by a line."""
    order = sorted(range(len(results)), key=lambda i: not best[i])
    at, sizes = [], []
    for i in order:
        tokens_per_s, val_loss = results[i].tokens_per_s, results[i].val_loss
        assert tokens_per_s and val_loss
        x, y = axes.transData.transform((tokens_per_s.median, val_loss.mean))
        at.append((float(x) / DPI, float(y) / DPI))
        sizes += text_sizes([results[i].entry], weight="bold" if best[i] else "normal")
    across, up = figure.get_size_inches()
    bounds = (LEFT, BOTTOM, LEFT + WIDTH, up - HEAD)
    for i, (x, y), (left, bottom), (width, height) in zip(
        order, at, place(at, sizes, bounds, CLEARANCE), sizes, strict=True
    ):
        near_x, near_y = min(max(x, left), left + width), min(max(y, bottom), bottom + height)
        if abs(near_x - x) + abs(near_y - y) > 2.5 * CLEARANCE:
            leader = Line2D(
                [x / across, near_x / across], [y / up, near_y / up], color=FAINT, linewidth=0.5
            )
            figure.add_artist(leader)
        figure.text(
            left / across,
            bottom / up,
            results[i].entry,
            fontsize=SMALL,
            va="bottom",
            fontweight="bold" if best[i] else "normal",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
