"""Panels of lines, side by side, each line named at its end: what all figures of lines have in common."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.metrics import PARALLELISM, under_baseline_parallelism
from harness.report.charts.label_placement import spread
from harness.report.charts.mpl_setup import (
    DPI,
    FAINT,
    HEAD,
    SMALL,
    add_axes,
    new_figure,
    text_sizes,
    thousands,
    widest,
)
from harness.report.charts.style import Look

MAX_COLUMNS = 4
PANEL_WIDTH, PANEL_HEIGHT = 2.7, 2.5
LEFT, BOTTOM, TITLE, BETWEEN = 0.62, 0.5, 0.24, 0.22
WIDE_LEFT = 0.84  # where each panel has its own y axis
LEADER = 0.2  # inches between a panel's edge and its labels
LINE_HEIGHT = 0.145
MARGIN = 0.5  # powers of two round a sole place


@dataclass(frozen=True)
class End:
    """Where an entry's line ends, in the panel's data, and its mark."""

    entry: Entry
    x: float
    y: float
    marker: str


def grid(
    lines: Mapping[str, Sequence[str]],
    n_columns: int,
    title: str,
    subtitle: str,
    x_label: str,
    y_label: str,
    own_y: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel per title and room for the names of its lines; the y axis is shared or its own."""
    left, between = (WIDE_LEFT, WIDE_LEFT) if own_y else (LEFT, BETWEEN)
    gutter = widest([name for names in lines.values() for name in names]) + LEADER + between
    height = max(PANEL_HEIGHT, max(map(len, lines.values())) * LINE_HEIGHT + 0.3)
    head = HEAD + (TITLE if any(lines) else 0.0)
    step_x, step_y = PANEL_WIDTH + gutter, height + TITLE + 0.32
    width = max(
        left + n_columns * step_x - between + BETWEEN,
        0.3 + widest([subtitle]),
        0.3 + 1.45 * widest([title]),
    )
    n_rows = -(-len(lines) // n_columns)
    figure = new_figure(width, head + n_rows * step_y + BOTTOM - 0.44, title, subtitle)
    panels = []
    for i, name in enumerate(lines):
        row, column = divmod(i, n_columns)
        axes = add_axes(figure, left + column * step_x, head + row * step_y, PANEL_WIDTH, height)
        axes.set_title(name, loc="left", fontsize=9, fontweight="bold", pad=5)
        axes.xaxis.set_major_formatter(thousands())
        if i + n_columns >= len(lines):
            axes.set_xlabel(x_label)
        if column == 0:
            axes.set_ylabel(y_label)
        axes.tick_params(labelleft=own_y or column == 0)
        panels.append(axes)
    return figure, panels


def of_one_parallelism(study: StudyResults, asked: Iterable[Entry]) -> list[Entry]:
    """Return the entries that have a line: of those that differ in the parallelism alone, the baseline's."""
    by_label = {entry.label: entry for entry in asked}
    bases = {label: under_baseline_parallelism(study, entry) for label, entry in by_label.items()}
    return [
        by_label[label]
        for label, base in bases.items()
        if base is None or base.label not in by_label
    ]


def in_one_panel(look: Look, entries: Iterable[Entry]) -> Look:
    """Return the look where all entries share a panel, so that a name tells the parallelism only where it varies."""
    one_parallelism = len({entry.axes.get(PARALLELISM) for entry in entries}) == 1
    return replace(look, panel_axes=(PARALLELISM,) if one_parallelism else ())


def scale_powers(axes: Axes, places: Sequence[int]) -> None:
    """Give the x axis a scale in powers of two, with ticks at the places alone."""
    margin = 2**MARGIN if len(places) == 1 else (places[-1] / places[0]) ** 0.08
    axes.set_xscale("log", base=2)
    axes.set_xlim(places[0] / margin, places[-1] * margin)
    axes.set_xticks(places)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(thousands())


def name_missing(axes: Axes, names: Sequence[str], what: str) -> float:
    """Say which entries a reader would look for in vain; return the share of the panel's height that this takes."""
    if not names:
        return 0.0
    text = "\n".join([f"{what}:", *names]) if len(names) <= 3 else f"{what}: {len(names)} entries"
    axes.text(
        0.97,
        0.96,
        text,
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=7,
        fontstyle="italic",
        color=FAINT,
    )
    return 0.06 + text_sizes([text], 7.0)[0][1] * DPI / axes.bbox.height


def name_ends(axes: Axes, ends: Sequence[End], look: Look) -> None:
    """Write each line's name right of the panel, led to from the line's end, none over another."""
    height = axes.bbox.height / DPI
    at = (axes.transData - axes.transAxes).transform([(end.x, end.y) for end in ends]).clip(0, 1)
    margin = text_sizes(["Ag"])[0][1] / 2
    places = spread((at[:, 1] * height).tolist(), LINE_HEIGHT, margin, height - margin)
    activation, tip, text = (
        1 + inches / PANEL_WIDTH for inches in (0.6 * LEADER, 0.9 * LEADER, LEADER + 0.05)
    )
    for end, (x, y), place in zip(ends, at, np.array(places) / height, strict=True):
        colour = look.colour(end.entry)
        if x < 0.995:
            axes.plot(
                [x, 1],
                [y, y],
                color=colour,
                linewidth=0.6,
                alpha=0.55,
                linestyle=(0, (1, 2)),
                transform=axes.transAxes,
            )
        axes.plot(
            [1, activation, tip],
            [y, place, place],
            color=colour,
            linewidth=1.0,
            clip_on=False,
            markersize=4,
            marker=end.marker,
            markevery=[2],
            transform=axes.transAxes,
        )
        axes.text(
            text,
            place,
            look.within_panel(end.entry),
            fontsize=SMALL,
            va="center_baseline",
            transform=axes.transAxes,
        )
