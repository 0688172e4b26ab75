"""Loss against the length of sequences, and against the position in them."""

from collections.abc import Iterator, Sequence

import numpy as np

from harness.analysis import eval_lengths
from harness.analysis.dataset import Entry
from harness.analysis.loss_curves import Array
from harness.analysis.summary import Summary
from harness.report.charts.curves import LOSS_LABEL, line_of_seeds
from harness.report.charts.entries import limit_entries, lines_alt, one_measured, seeds_note
from harness.report.charts.limits import loss_limits
from harness.report.charts.spec import (
    Axis,
    ChartSpec,
    Line,
    Lines,
    Panel,
    ReferenceLine,
    powers_of_two,
)
from harness.report.charts.style import Style, choose_style

BINS_PER_DOUBLING = 2  # of the position
SETTLED_POSITION = 0.05  # the y axis covers each line from this fraction of the sequence on


def build(summary: Summary) -> Iterator[ChartSpec]:
    """Return loss against length and loss by position, if the length probe measured any."""
    summary = limit_entries(one_measured(summary, lambda result: bool(result.lengths)))
    entries = summary.study.entries
    losses = [loss for entry in entries for loss in summary.results[entry.label].lengths]
    lengths = sorted({loss.length for loss in losses if loss.val_loss})
    if summary.study.spec is None or not lengths:
        return
    trained = summary.study.spec.model.seq_len
    note = ""
    if any(loss.reason for loss in losses):
        note = " A line ends at the last length at which the loss is defined."
    yield _against_length(summary, entries, lengths, trained, note)
    yield _against_position(summary, entries, lengths, trained)


def _against_length(
    summary: Summary, entries: Sequence[Entry], lengths: Sequence[int], trained: int, note: str
) -> ChartSpec:
    """Return the mean loss of each entry at each length, with its interval over seeds."""
    style = choose_style(summary.study).in_one_panel(entries)
    lines = []
    for entry in entries:
        points = []
        for loss in summary.results[entry.label].lengths:
            if loss.val_loss:
                mean = loss.val_loss.mean
                points.append((loss.length, mean, *(loss.val_loss.ci95 or (mean, mean))))
        mark = style.mark(entry)
        lines.append(Line.with_bars(style.within_panel(entry), entry.label, mark, points))
    x = Axis("length of the sequences, tokens", log2=True, ticks=sorted({*lengths, trained}))
    panel = _panel("", x, lines, trained, 0.0)
    title = "Validation loss against sequence length"
    finding = f"lowest at length {lengths[-1]:,}"
    return ChartSpec(
        name="length_loss",
        title=title,
        subtitle="mean over seeds; bars: 95 % t interval over seeds",
        note=note,
        alt=lines_alt(summary, title, panel.lines, finding, "nats per token", of_longest=True),
        plot=Lines([panel]),
    )


def _against_position(
    summary: Summary, entries: Sequence[Entry], lengths: Sequence[int], trained: int
) -> ChartSpec:
    """Return the loss along the sequence, for two lengths.

    These are the longest length up to the trained one, and the longest of all.
    """
    style = choose_style(summary.study).in_one_panel(entries)
    within = [length for length in lengths if length <= trained]
    panels = []
    for length in sorted({*within[-1:], lengths[-1]}):
        limits = (1.0, max(2.0, length))
        x = Axis("position, tokens", limits, log2=True, ticks=powers_of_two(*limits))
        lines = [_by_position(entry, length, style) for entry in entries]
        panels.append(_panel(f"length {length:,}", x, lines, trained, SETTLED_POSITION))
    title = "Validation loss against position in the sequence"
    finding = f"lowest at the end of length {lengths[-1]:,}"
    return ChartSpec(
        name="position_loss",
        title=title,
        subtitle=f"averaged over {BINS_PER_DOUBLING} bins per doubling of the position; "
        + seeds_note(entries),
        note=" The y axis omits the high loss of the first positions.",
        alt=lines_alt(summary, title, panels[-1].lines, finding, "nats per token"),
        plot=Lines(panels, len(panels)),
    )


def _panel(title: str, x: Axis, lines: Sequence[Line], trained: int, settled: float) -> Panel:
    defined = [line for line in lines if line.x]
    lowest = min(min(line.bottom) for line in defined)
    references = []
    if x.limits is None or trained <= x.limits[1]:
        references.append(ReferenceLine("x", trained, f"trained: {trained:,}"))
    return Panel(
        title=title,
        x=x,
        y=Axis(LOSS_LABEL, loss_limits(defined, lowest, settled)),
        lines=defined,
        references=references,
        missing=[line.name for line in lines if not line.x],
        missing_reason="not defined",
    )


def _by_position(entry: Entry, length: int, style: Style) -> Line:
    """Return the line of an entry; without points if no seed defines the loss at this length."""
    seeds = [np.array(at.loss_by_position) for _, at in eval_lengths.defined(entry, length)]
    smoothed = [smooth(losses, length) for losses in seeds if len(losses) == len(seeds[0])]
    if not smoothed:
        return line_of_seeds(entry, style, np.empty(0), np.empty((1, 0)))
    return line_of_seeds(entry, style, smoothed[0][0], np.array([loss for _, loss in smoothed]))


def smooth(by_position: Array, length: int) -> tuple[Array, Array]:
    """Return the mean loss over bins that widen with the position.

    Returns the geometric middle of each bin and its mean, both of shape (n_bins,). Bins are counted
    from the end, where the last one is complete.
    """
    first, last = eval_lengths.positions(length, len(by_position))
    bins = np.floor(np.log2(length / last) * BINS_PER_DOUBLING)
    starts = np.flatnonzero(np.diff(bins, prepend=np.inf))
    n = last - first + 1
    means = np.add.reduceat(by_position * n, starts) / np.add.reduceat(n, starts)
    ends = np.append(starts[1:], len(first)) - 1
    return np.sqrt(first[starts] * last[ends]), means
