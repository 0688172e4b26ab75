"""Loss against the length of sequences, and against the position in them."""

import numpy as np

from harness.analysis import eval_lengths as analysis
from harness.analysis.dataset import Entry
from harness.analysis.eval_lengths import positions
from harness.analysis.summary import Summary
from harness.report.charts.curves import LOSS_LABEL, Array, loss_limits
from harness.report.charts.entries import single_parallelism
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
from harness.report.charts.text import lines_alt, parallelism_note, seeds_note

BINS_PER_DOUBLING = 2  # of the position
SETTLED_POSITION = 0.05  # the y axis covers each line from this fraction of the sequence on


def build(summary: Summary) -> list[ChartSpec]:
    """Return loss against length and loss by position, if the length probe measured any."""
    measured = [entry for entry in summary.study.entries if summary.lengths[entry.label]]
    entries = single_parallelism(summary.study, measured)
    lengths = {
        loss.length for entry in entries for loss in summary.lengths[entry.label] if loss.val_loss
    }
    if not lengths:
        return []
    style = choose_style(summary.study).in_one_panel(entries)
    note = parallelism_note(summary.study, len(entries), len(measured))
    return [
        _against_length(summary, entries, sorted(lengths), style, note),
        _against_position(summary, entries, sorted(lengths), style, note),
    ]


def _against_length(
    summary: Summary, entries: list[Entry], lengths: list[int], style: Style, note: str
) -> ChartSpec:
    """Return the mean loss of each entry at each length, with its interval over seeds."""
    lines = [_by_length(summary, entry, style) for entry in entries]
    trained = _trained_length(summary)
    ticks = tuple(float(length) for length in sorted({*lengths, trained}))
    x = Axis("length of the sequences, tokens", log2=True, ticks=ticks)
    panel = _panel("", x, lines, trained, 0.0)
    subtitle = "mean over seeds; bars: 95 % t interval over seeds"
    caption = f"Validation loss against the length of the sequences: {subtitle}."
    if any(loss.reason for entry in entries for loss in summary.lengths[entry.label]):
        caption += " A line ends at the last length at which the loss is defined."
    return ChartSpec(
        name="length_loss",
        title="Loss against length",
        subtitle=subtitle,
        caption=caption + note,
        alt=lines_alt(
            "Validation loss against sequence length",
            panel.lines,
            f"lowest at length {lengths[-1]:,}",
            "nats per token",
            of_longest=True,
        ),
        plot=Lines((panel,)),
    )


def _against_position(
    summary: Summary, entries: list[Entry], lengths: list[int], style: Style, note: str
) -> ChartSpec:
    """Return the loss along the sequence, for two lengths.

    These are the longest length up to the trained one, and the longest of all.
    """
    trained = _trained_length(summary)
    within = [length for length in lengths if length <= trained]
    panels = []
    for length in sorted({*within[-1:], lengths[-1]}):
        limits = (1.0, max(2.0, length))
        x = Axis("position, tokens", limits, log2=True, ticks=powers_of_two(*limits))
        lines = [_by_position(entry, length, style) for entry in entries]
        panels.append(_panel(f"length {length:,}", x, lines, trained, SETTLED_POSITION))
    subtitle = f"averaged over {BINS_PER_DOUBLING} bins per doubling of the position; "
    subtitle += seeds_note(entries)
    return ChartSpec(
        name="position_loss",
        title="Loss by position",
        subtitle=subtitle,
        caption=f"Validation loss against the position in the sequence: {subtitle}. The y axis "
        f"omits the high loss of the first positions.{note}",
        alt=lines_alt(
            "Validation loss against the position in the sequence",
            panels[-1].lines,
            f"lowest at the end of length {lengths[-1]:,}",
            "nats per token",
        ),
        plot=Lines(tuple(panels), len(panels)),
    )


def _trained_length(summary: Summary) -> int:
    assert summary.study.spec is not None
    return summary.study.spec.model.seq_len


def _panel(title: str, x: Axis, lines: list[Line], trained: int, settled: float) -> Panel:
    defined = tuple(line for line in lines if line.x)
    lowest = min(min(line.bottom) for line in defined)
    references: tuple[ReferenceLine, ...] = ()
    if x.limits is None or trained <= x.limits[1]:
        references = (ReferenceLine("x", trained, f"trained: {trained:,}"),)
    return Panel(
        title=title,
        x=x,
        y=Axis(LOSS_LABEL, loss_limits(defined, lowest, settled)),
        lines=defined,
        references=references,
        missing=tuple(line.name for line in lines if not line.x),
        missing_reason="not defined",
    )


def _by_length(summary: Summary, entry: Entry, style: Style) -> Line:
    losses = [loss for loss in summary.lengths[entry.label] if loss.val_loss]
    means = [loss.val_loss for loss in losses if loss.val_loss]
    intervals = [mean.ci95 or (mean.mean, mean.mean) for mean in means]
    return Line(
        name=style.within_panel(entry),
        entry=entry.label,
        style=style.mark(entry),
        x=tuple(float(loss.length) for loss in losses),
        y=tuple(mean.mean for mean in means),
        low=tuple(low for low, _ in intervals),
        high=tuple(high for _, high in intervals),
        spread="bars",
        markers="all",
    )


def _by_position(entry: Entry, length: int, style: Style) -> Line:
    """Return the line of an entry; without points if no seed defines the loss at this length."""
    seeds = [losses.by_position for losses in analysis.defined(entry, length).values()]
    smoothed = [smooth(losses, length) for losses in seeds if len(losses) == len(seeds[0])]
    means = np.array([mean for _, mean in smoothed])
    x = smoothed[0][0] if smoothed else np.empty(0)
    several = len(smoothed) > 1
    return Line(
        name=style.within_panel(entry),
        entry=entry.label,
        style=style.mark(entry),
        x=tuple(x.tolist()),
        y=tuple(means.mean(axis=0).tolist()) if smoothed else (),
        low=tuple(means.min(axis=0).tolist()) if several else (),
        high=tuple(means.max(axis=0).tolist()) if several else (),
        markers=style.markers(entry),
    )


def smooth(by_position: Array, length: int) -> tuple[Array, Array]:
    """Return the mean loss over bins that widen with the position.

    Returns the geometric middle of each bin and its mean, both of shape (n_bins,). Bins are counted
    from the end, where the last one is complete.
    """
    first, last = np.array(positions(length, len(by_position))).T
    bins = np.floor(np.log2(length / last) * BINS_PER_DOUBLING)
    starts = np.flatnonzero(np.diff(bins, prepend=np.inf))
    n = last - first + 1
    means = np.add.reduceat(by_position * n, starts) / np.add.reduceat(n, starts)
    ends = np.append(starts[1:], len(first)) - 1
    return np.sqrt(first[starts] * last[ends]), means
