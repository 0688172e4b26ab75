"""Time per decoded token and KV cache size against the context: one panel per batch size."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.analysis.dataset import Entry
from harness.analysis.decoding import Decoding
from harness.analysis.summary import Summary
from harness.report.charts.entries import single_parallelism
from harness.report.charts.spec import Axis, ChartSpec, Line, Lines, Panel, powers_of_two
from harness.report.charts.style import Style, choose_style
from harness.report.charts.text import lines_alt, parallelism_note

MAX_COLUMNS = 4
Measurement = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True)
class _Metric:
    name: str
    title: str
    subtitle: str
    y_label: str
    finding: str
    unit: str
    is_size: bool
    measure: Callable[[Decoding], Measurement]


def _step_ms(decoding: Decoding) -> Measurement:
    assert decoding.decode_step_s
    low, high = decoding.decode_step_s.ci95
    return 1e3 * decoding.decode_step_s.median, 1e3 * low, 1e3 * high


def _cache_bytes(decoding: Decoding) -> Measurement:
    assert decoding.cache_bytes
    return decoding.cache_bytes, decoding.cache_bytes, decoding.cache_bytes


TIME = _Metric(
    name="decode_time",
    title="Time per decoded token",
    subtitle="one token for every sequence of the batch; "
    "bars: bootstrap 95 % interval over seeds and samples",
    y_label="ms per token",
    finding="shortest at the largest batch and context",
    unit="ms",
    is_size=False,
    measure=_step_ms,
)
CACHE = _Metric(
    name="decode_cache",
    title="KV cache size",
    subtitle="of all layers and all sequences of the batch, as allocated",
    y_label="KV cache",
    finding="smallest at the largest batch and context",
    unit="bytes",
    is_size=True,
    measure=_cache_bytes,
)


def build(summary: Summary) -> list[ChartSpec]:
    """Return the charts of time per token and cache size, if the decode probe measured any."""
    measured = [entry for entry in summary.study.entries if summary.decoding[entry.label]]
    entries = single_parallelism(summary.study, measured)
    if not any(place.seeds for entry in entries for place in summary.decoding[entry.label]):
        return []
    note = parallelism_note(summary.study, len(entries), len(measured))
    return [_chart(summary, entries, metric, note) for metric in (TIME, CACHE)]


def _chart(summary: Summary, entries: list[Entry], metric: _Metric, note: str) -> ChartSpec:
    style = choose_style(summary.study).in_one_panel(entries)
    places = [place for entry in entries for place in summary.decoding[entry.label] if place.seeds]
    contexts = sorted({place.context for place in places})
    x = Axis("context, positions", log2=True, ticks=tuple(float(value) for value in contexts))
    panels = []
    for batch in sorted({place.batch for place in places}):
        lines = []
        missing = []
        for entry in entries:
            at_batch = [
                place
                for place in summary.decoding[entry.label]
                if place.batch == batch and place.seeds
            ]
            if at_batch:
                lines.append(_line(entry, at_batch, metric, style))
            else:
                missing.append(style.within_panel(entry))
        if lines:
            panels.append(
                Panel(
                    f"batch {batch:,}",
                    x,
                    _y_axis(metric, lines),
                    tuple(lines),
                    missing=tuple(missing),
                    missing_reason="not defined",
                )
            )
    title = f"{metric.title} against context"
    caption = f"{title}: {metric.subtitle}."
    if any(place.reason for entry in entries for place in summary.decoding[entry.label]):
        caption += " A line ends at the last context at which decoding is defined."
    return ChartSpec(
        name=metric.name,
        title=title,
        subtitle=metric.subtitle,
        caption=caption + note,
        alt=lines_alt(title, panels[-1].lines, metric.finding, metric.unit, of_longest=True),
        plot=Lines(tuple(panels), min(len(panels), MAX_COLUMNS)),
    )


def _line(entry: Entry, places: Sequence[Decoding], metric: _Metric, style: Style) -> Line:
    values = [metric.measure(place) for place in places]
    return Line(
        name=style.within_panel(entry),
        entry=entry.label,
        style=style.mark(entry),
        x=tuple(float(place.context) for place in places),
        y=tuple(value for value, _, _ in values),
        low=tuple(low for _, low, _ in values),
        high=tuple(high for _, _, high in values),
        spread="bars",
        markers="all",
    )


def _y_axis(metric: _Metric, lines: Sequence[Line]) -> Axis:
    low = min(min(line.low) for line in lines)
    high = max(max(line.high) for line in lines)
    if not metric.is_size:
        return Axis(metric.y_label, (0.0, 1.08 * high))
    limits = (low / math.sqrt(2), high * math.sqrt(2))
    return Axis(metric.y_label, limits, log2=True, ticks=powers_of_two(*limits), binary=True)
