"""The contexts side by side: throughput, memory and communication of each candidate in each."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from harness.analysis.contexts import Labels, compared_axes, entries_by_context
from harness.analysis.dataset import Entry
from harness.analysis.summary import Summary
from harness.report.charts.entries import MAX_ENTRIES
from harness.report.charts.spec import (
    MARKERS,
    Axis,
    ChartSpec,
    Dot,
    DotPanel,
    Dots,
    Interval,
    MarkStyle,
)
from harness.report.charts.style import SHADES
from harness.report.formatting import MIB, count, significant_figures
from harness.results.records.entries import EntryResult

Measured = tuple[float, Interval | None]
Measure = Callable[[EntryResult], Measured | None]
ROOM = 1.06  # the axis over the largest value
MAX_ROOM = 1.5  # the same, where an interval needs it
MAX_CONTEXTS = 9  # markers that differ


def build(summary: Summary) -> Iterator[ChartSpec]:
    """Return the chart of the contexts, if there are several and any is measured."""
    study = summary.study
    axes = compared_axes(study)
    by_context = entries_by_context(study) if axes else {}
    if len(by_context) < 2:
        return
    candidates = list(dict.fromkeys(key for found in by_context.values() for key in found))
    shown = candidates[:MAX_ENTRIES]
    contexts = list(by_context)[:MAX_CONTEXTS]
    panels = []
    for label, measure in MEASURES.items():
        panel = _panel(label, measure, summary, shown, [by_context[one] for one in contexts])
        if panel is not None:
            panels.append(panel)
    if not panels:
        return
    names = [study.title_of(dict(zip(axes, labels, strict=True))) for labels in contexts]
    rows = [_row_name(summary, by_context, key) for key in shown]
    left_out = len(candidates) - len(shown)
    note = f" {count(left_out, 'more entry', 'more entries')} in the tables." if left_out else ""
    if len(by_context) > len(contexts):
        note += f" The first {len(contexts)} of {len(by_context)} contexts."
    title = f"Throughput, memory and communication by {' and '.join(axes)}"
    yield ChartSpec(
        name="contexts",
        title=title,
        subtitle="lines: 95 % intervals over seeds, cut at the edge",
        note=note,
        alt=f"{title}: {count(len(panels), 'panel')} with {count(len(rows), 'row')}; "
        + _finding(names, panels[0]),
        plot=Dots(rows, [(name, _mark(i)) for i, name in enumerate(names)], panels),
    )


def _speed(result: EntryResult) -> Measured | None:
    speed = result.tokens_per_s
    return None if speed is None else (speed.median, speed.ci95)


def _memory(result: EntryResult) -> Measured | None:
    peak = result.peak_memory_bytes
    return None if peak is None else (peak / MIB, None)


def _sent(result: EntryResult) -> Measured | None:
    return (result.traffic.sent_bytes / MIB, None) if result.traffic else None


def _waiting(result: EntryResult) -> Measured | None:
    fraction = result.phases.waiting_fraction if result.phases else None
    return None if fraction is None else (100 * fraction, None)


MEASURES: Mapping[str, Measure] = {
    "tokens per second": _speed,
    "peak memory per rank, MiB": _memory,
    "sent per rank and step, MiB": _sent,
    "waiting for communication, % of a step": _waiting,
}


def _panel(
    label: str,
    measure: Measure,
    summary: Summary,
    candidates: Sequence[Labels],
    contexts: Sequence[Mapping[Labels, Entry]],
) -> DotPanel | None:
    """Return the panel of a measurement; None if no entry has it, or if all are zero.

    A throughput on another machine than the baseline's is left out.
    """
    dots = []
    for mark, entries in enumerate(contexts):
        for row, key in enumerate(candidates):
            entry = entries.get(key)
            if entry is None or (measure is _speed and entry.label in summary.without_speed):
                continue
            measured = measure(summary.results[entry.label])
            if measured is not None:
                dots.append(Dot(row, mark, *measured))
    highest = max((dot.value for dot in dots), default=0.0)
    if not highest:
        return None
    ends = max(dot.interval[1] if dot.interval else dot.value for dot in dots)
    limit = max(ROOM * highest, min(ends, MAX_ROOM * highest))
    return DotPanel(Axis(label, (-0.02 * limit, limit)), dots)


def _row_name(
    summary: Summary, by_context: Mapping[Labels, Mapping[Labels, Entry]], key: Labels
) -> str:
    """Return the title of a candidate."""
    entry = next(found[key] for found in by_context.values() if key in found)
    axes = compared_axes(summary.study)
    varying = summary.study.varying()
    levels = {axis: label for axis, label in entry.axes.items() if axis in varying}
    return summary.study.title_of({k: v for k, v in levels.items() if k not in axes})


def _mark(i: int) -> MarkStyle:
    return MarkStyle(SHADES[i % 2], marker=MARKERS[i % len(MARKERS)])


def _finding(names: Sequence[str], panel: DotPanel) -> str:
    """Return the context of the largest value of the first panel."""
    largest = max(panel.dots, key=lambda dot: dot.value)
    return f"most {panel.x.label}: {names[largest.mark]}, {significant_figures(largest.value)}."
