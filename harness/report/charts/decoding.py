"""Time per decoded token and size of the cache against the context: a panel per batch, a line per entry."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from harness.analysis.dataset import Entry
from harness.analysis.decoding import Decoding
from harness.analysis.summary import Summary
from harness.report.charts.mpl_setup import sizes, thousands
from harness.report.charts.small_multiples import (
    MARGIN,
    MAX_COLUMNS,
    End,
    grid,
    in_one_panel,
    name_ends,
    name_missing,
    of_one_parallelism,
    scale_powers,
)
from harness.report.charts.style import Look

SIDE_BY_SIDE, AT_MOST = (
    0.02,
    0.12,
)  # of the gap between contexts: from one line's mark to the next's, and over all
ALONE = 0.8  # powers of two over which the marks of a sole context are set

Measured = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True)
class Kind:
    """What a figure shows: its heading, whether its y axis is in powers of two, and the measure in the axis's unit."""

    title: str
    subtitle: str
    y_label: str
    in_powers: bool
    measured: Callable[[Decoding], Measured]


@dataclass(frozen=True)
class Line:
    """An entry's values where they are defined, arrays of shape (n_contexts,)."""

    entry: Entry
    context: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _step_ms(found: Decoding) -> Measured:
    assert found.decode_step_s
    low, high = found.decode_step_s.ci95
    return found.decode_step_s.median * 1e3, low * 1e3, high * 1e3


def _cache_bytes(found: Decoding) -> Measured:
    assert found.cache_bytes
    return found.cache_bytes, found.cache_bytes, found.cache_bytes


TIME = Kind(
    title="Time per decoded token",
    subtitle="one token for every sequence of the batch; bars: bootstrap 95 % interval over seeds and samples",
    y_label="ms per token",
    in_powers=False,
    measured=_step_ms,
)
CACHE = Kind(
    title="Size of the key-value cache",
    subtitle="of all layers and all sequences of the batch, as allocated",
    y_label="key-value cache",
    in_powers=True,
    measured=_cache_bytes,
)


def defined(summary: Summary) -> list[Decoding]:
    """Return all that was measured, of whichever entry."""
    return [found for places in summary.decoding.values() for found in places if found.seeds]


def shown(summary: Summary) -> list[Entry]:
    """Return the entries that have a line."""
    return of_one_parallelism(
        summary.study, (e for e in summary.study.entries if summary.decoding[e.label])
    )


def draw(summary: Summary, look: Look, kind: Kind) -> Figure:
    """Draw one measure of the entries that have a line."""
    entries = shown(summary)
    look = in_one_panel(look, entries)
    batches, contexts = (
        sorted({getattr(found, size) for found in defined(summary)})
        for size in ("batch", "context")
    )
    names = [look.within_panel(entry) for entry in entries]
    titles = {f"batch {batch:,}": names for batch in batches}
    n_columns, shifts = min(len(batches), MAX_COLUMNS), _shifts(contexts, len(entries))
    figure, panels = grid(
        titles, n_columns, kind.title, kind.subtitle, "context, positions", kind.y_label, own_y=True
    )
    for axes, batch in zip(panels, batches, strict=True):
        lines = [_line(entry, summary.decoding[entry.label], batch, kind) for entry in entries]
        missing = [name for name, line in zip(names, lines, strict=True) if not len(line.context)]
        _scale(axes, contexts, lines, kind, name_missing(axes, missing, "not defined"))
        lines = [
            replace(line, context=line.context * 2**shift)
            for line, shift in zip(lines, shifts, strict=True)
        ]
        for line in lines:
            _plot(axes, line, look)
        name_ends(axes, [_end(line, look) for line in lines if len(line.context)], look)
    return figure


def _line(entry: Entry, places: Sequence[Decoding], batch: int, kind: Kind) -> Line:
    of_batch = [found for found in places if found.batch == batch and found.seeds]
    values = np.array([kind.measured(found) for found in of_batch], dtype=float).reshape(-1, 3)
    return Line(entry, np.array([found.context for found in of_batch]), *values.T)


def _shifts(contexts: Sequence[int], n_lines: int) -> np.ndarray:
    """Return by how many powers of two of context each line is shifted, so that none hides another."""
    share = min(SIDE_BY_SIDE * n_lines, AT_MOST)
    width = share * np.diff(np.log2(contexts)).min() if len(contexts) > 1 else ALONE
    return width * ((np.arange(n_lines) + 0.5) / n_lines - 0.5)


def _scale(
    axes: Axes, contexts: Sequence[int], lines: Sequence[Line], kind: Kind, taken: float
) -> None:
    """Set ticks at the contexts, and a y axis in powers of two or from zero; a share at its top is taken by a text."""
    scale_powers(axes, contexts)
    low, high = (
        min(line.low.min(initial=np.inf) for line in lines),
        max(line.high.max(initial=0) for line in lines),
    )
    if kind.in_powers:
        bottom = low / 2**MARGIN
        axes.set_yscale("log", base=2)
        axes.set_ylim(bottom, bottom * (high / low * 4**MARGIN) ** (1 / (1 - taken)))
    else:
        axes.set_ylim(0, high * 1.08 / (1 - taken))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(sizes() if kind.in_powers else thousands())


def _plot(axes: Axes, line: Line, look: Look) -> None:
    colour = look.colour(line.entry)
    axes.plot(
        line.context,
        line.value,
        color=colour,
        linestyle=look.dash(line.entry),
        linewidth=1.5,
        marker=look.point_marker(line.entry),
        markersize=4,
    )
    axes.vlines(line.context, line.low, line.high, color=colour, linewidth=1.0)


def _end(line: Line, look: Look) -> End:
    return End(
        line.entry, float(line.context[-1]), float(line.value[-1]), look.point_marker(line.entry)
    )
