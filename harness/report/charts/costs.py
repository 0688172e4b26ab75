"""What each entry costs: throughput and memory as one bar per entry, in the order and groups of the tables."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.dataset import Entry
from harness.analysis.intervals import Median
from harness.analysis.metrics import CATEGORIES
from harness.analysis.summary import Summary
from harness.report.charts.mpl_setup import (
    FAINT,
    HEAD,
    SMALL,
    add_axes,
    new_figure,
    thousands,
    widest,
)
from harness.report.charts.style import Look
from harness.report.formatting import NO_SPEED

BAR, GROUP_GAP, WIDTH, BOTTOM = 0.26, 0.14, 5.6, 0.5  # inches
# A sequence of one hue, so that no category is taken for a variant.
MARK = "#D55E00"  # what theory predicts
CATEGORY_COLOURS = ("#2f3e4e", "#56697c", "#8396a8", "#b3c1cd", "#dfe5ea")


def throughput(summary: Summary, look: Look) -> Figure:
    """Draw the throughput of each entry with its interval; where there is none, its status."""
    subtitle = "tokens per step over the median step time; line: bootstrap 95 % interval over seeds and steps"
    figure, axes, places = rows(summary, look, "Throughput", subtitle, "tokens per second", 0.0)
    values = {label: r.tokens_per_s for label, r in summary.results.items()}
    top = max(value.ci95[1] for value in values.values() if value)
    axes.set_xlim(0, top * 1.16)
    for entry, place in zip(summary.study.entries, places, strict=True):
        value = values[entry.label]
        if value is None:
            status(axes, entry, place, entry.label in summary.diverging)
            continue
        axes.barh(place, value.median, height=BAR * 0.72, color=look.colour(entry), alpha=0.85)
        _interval(axes, value, place)
        axes.annotate(
            f"{value.median:,.0f}",
            (value.ci95[1], place),
            (4, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=SMALL,
        )
    return figure


def _interval(axes: Axes, value: Median, place: float) -> None:
    low, high = value.ci95
    axes.plot([low, high], [place, place], color="white", linewidth=2.6, solid_capstyle="butt")
    axes.plot([low, high], [place, place], color="black", linewidth=1.2, solid_capstyle="butt")
    for end in (low, high):
        axes.plot(
            [end, end], [place - BAR * 0.16, place + BAR * 0.16], color="black", linewidth=1.2
        )


def memory(summary: Summary, look: Look) -> Figure:
    """Draw the memory of each entry's fullest rank, stacked by category."""
    results = summary.results
    largest = max(result.peak_memory_bytes or 0 for result in results.values())
    unit, name = (2**30, "GiB") if largest >= 4 * 2**30 else (2**20, "MiB")
    subtitle = "of the fullest rank, by category; the figure at the end is the peak"
    if any(summary.predicted_memory.values()):
        subtitle += "; line: predicted parameters, gradients and optimizer"
    figure, axes, places = rows(summary, look, "Memory", subtitle, f"{name} per rank", 0.3)
    totals = []
    for entry, place in zip(summary.study.entries, places, strict=True):
        found = results[entry.label].memory
        if found is None:
            status(axes, entry, place)
            continue
        sizes = [(found.get(category) or 0) / unit for category in CATEGORIES]
        stack(axes, place, sizes, CATEGORY_COLOURS)
        if held := summary.predicted_memory[entry.label]:
            predicted = sum(held.predicted.values()) / unit
            axes.plot(
                [predicted] * 2, [place - BAR * 0.42, place + BAR * 0.42], color=MARK, linewidth=1.4
            )
        totals.append(max(sum(sizes), (found["peak"] or 0) / unit))
        axes.annotate(
            f"{(found['peak'] or 0) / unit:,.1f}",
            (sum(sizes), place),
            (4, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=SMALL,
        )
    axes.set_xlim(0, max(totals) * 1.13 or 1)
    handles = [axes.barh([places[0]], [0], color=colour) for colour in CATEGORY_COLOURS]
    legend(figure, axes, handles, CATEGORIES)
    return figure


def stack(axes: Axes, place: float, sizes: Sequence[float], colours: Sequence[str]) -> None:
    """Draw one row's bars end to end."""
    axes.barh(
        [place] * len(sizes),
        sizes,
        left=np.cumsum([0, *sizes[:-1]]),
        height=BAR * 0.72,
        color=colours,
        edgecolor="white",
        linewidth=0.5,
    )


def legend(figure: Figure, axes: Axes, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Name the parts of the bars above the axes."""
    height = axes.get_position().height * figure.get_size_inches()[1]
    axes.legend(
        handles,
        names,
        ncols=len(names),
        loc="lower left",
        bbox_to_anchor=(0, 1 + 0.04 / height),
        frameon=False,
        fontsize=SMALL,
        handlelength=1.0,
        handleheight=1.0,
        handletextpad=0.4,
        columnspacing=1.2,
        borderaxespad=0,
        borderpad=0.2,
    )


def rows(
    summary: Summary, look: Look, title: str, subtitle: str, x_label: str, extra: float
) -> tuple[Figure, Axes, list[float]]:
    """Return a figure with one row per entry, and each row's place in inches from the top; groups stand apart."""
    entries = summary.study.entries
    places = row_places([look.within_panel(entry) if look.panel_axes else "" for entry in entries])
    left = widest([entry.label for entry in entries]) + 0.3
    height = places[-1] + BAR * 0.7
    figure = new_figure(
        max(left + WIDTH + 0.2, widest([subtitle]) + 0.3),
        HEAD + extra + height + BOTTOM,
        title,
        subtitle,
    )
    axes = add_axes(figure, left, HEAD + extra, WIDTH, height)
    axes.set_ylim(height, 0)
    axes.set_yticks(places, [entry.label for entry in entries])
    axes.tick_params(axis="y", length=0, labelcolor="black")
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_formatter(thousands())
    axes.set_xlabel(x_label)
    return figure, axes, places


def row_places(groups: Sequence[str]) -> list[float]:
    """Return the middle of each row in inches from the top, with a gap where the group changes."""
    places: list[float] = []
    for i, group in enumerate(groups):
        gap = GROUP_GAP if i and group != groups[i - 1] else 0.0
        places.append(places[-1] + BAR + gap if places else BAR * 0.7)
    return places


def status(axes: Axes, entry: Entry, place: float, diverges: bool = False) -> None:
    """Write in a row without a bar why it has none."""
    words = sorted({run.status + (f": {run.reason}" if run.reason else "") for run in entry.runs})
    words = [NO_SPEED] if diverges else words
    axes.annotate(
        ", ".join(words),
        (0, place),
        (5, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=SMALL,
        fontstyle="italic",
        color=FAINT,
    )
