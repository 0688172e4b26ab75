"""Time per decoded token and KV cache size against the context: one panel per batch size."""

import math
from collections.abc import Callable, Sequence

from harness.analysis.dataset import Entry
from harness.analysis.summary import Summary
from harness.report.charts.entries import single_parallelism
from harness.report.charts.spec import Axis, ChartSpec, Interval, Line, Lines, Panel, powers_of_two
from harness.report.charts.style import choose_style
from harness.report.charts.text import lines_alt, parallelism_note
from harness.report.formatting import SECONDS_TO_MS
from harness.results.records.study_summary import Decoding

MAX_COLUMNS = 4
LARGEST = "at the largest batch and context"


def build(summary: Summary) -> list[ChartSpec]:
    """Return the charts of time per token and cache size, if the decode probe measured any."""
    measured = [entry for entry in summary.study.entries if summary.results[entry.label].decoding]
    entries = single_parallelism(summary.study, measured)
    places = [place for entry in entries for place in summary.results[entry.label].decoding]
    if not any(place.seeds for place in places):
        return []
    note = parallelism_note(summary.study, len(entries), len(measured))
    if any(place.reason for place in places):
        note = f" A line ends at the last context at which decoding is defined.{note}"
    return [_time_per_token(summary, entries, note), _cache_size(summary, entries, note)]


def _time_per_token(summary: Summary, entries: Sequence[Entry], note: str) -> ChartSpec:
    def y_axis(lines: Sequence[Line]) -> Axis:
        return Axis("ms per token", (0.0, 1.08 * max(max(line.high) for line in lines)))

    panels = _panels(summary, entries, _step_ms, y_axis)
    title = "Time per decoded token against context"
    subtitle = "one token for every sequence of the batch; "
    subtitle += "bars: bootstrap 95 % interval over seeds and samples"
    alt = lines_alt(title, panels[-1].lines, f"shortest {LARGEST}", "ms", of_longest=True)
    plot = Lines(panels, min(len(panels), MAX_COLUMNS))
    return ChartSpec("decode_time", title, subtitle, f"{title}: {subtitle}.{note}", alt, plot)


def _cache_size(summary: Summary, entries: Sequence[Entry], note: str) -> ChartSpec:
    def y_axis(lines: Sequence[Line]) -> Axis:
        low = min(min(line.y) for line in lines) / math.sqrt(2)
        high = max(max(line.y) for line in lines) * math.sqrt(2)
        return Axis("KV cache", (low, high), True, powers_of_two(low, high), binary=True)

    panels = _panels(summary, entries, _cache_bytes, y_axis)
    title = "KV cache size against context"
    subtitle = "of all layers and all sequences of the batch, as allocated"
    alt = lines_alt(title, panels[-1].lines, f"smallest {LARGEST}", "bytes", of_longest=True)
    plot = Lines(panels, min(len(panels), MAX_COLUMNS))
    return ChartSpec("decode_cache", title, subtitle, f"{title}: {subtitle}.{note}", alt, plot)


def _step_ms(place: Decoding) -> tuple[float, Interval]:
    assert place.decode_step_s
    low, high = place.decode_step_s.ci95
    median = place.decode_step_s.median
    return SECONDS_TO_MS * median, (SECONDS_TO_MS * low, SECONDS_TO_MS * high)


def _cache_bytes(place: Decoding) -> tuple[float, Interval]:
    assert place.cache_bytes
    return place.cache_bytes, (place.cache_bytes, place.cache_bytes)


def _panels(
    summary: Summary,
    entries: Sequence[Entry],
    measure: Callable[[Decoding], tuple[float, Interval]],
    y_axis: Callable[[Sequence[Line]], Axis],
) -> list[Panel]:
    """Return a panel per batch size with a line per entry that is defined there."""
    style = choose_style(summary.study).in_one_panel(entries)
    places = [
        place for entry in entries for place in summary.results[entry.label].decoding if place.seeds
    ]
    x = Axis("context, positions", log2=True, ticks=sorted({place.context for place in places}))
    panels = []
    for batch in sorted({place.batch for place in places}):
        lines = []
        missing = []
        for entry in entries:
            points = []
            for place in summary.results[entry.label].decoding:
                if place.batch == batch and place.seeds:
                    points.append((place.context, *measure(place)))
            name = style.within_panel(entry)
            if points:
                lines.append(Line.with_bars(name, entry.label, style.mark(entry), points))
            else:
                missing.append(name)
        title = f"batch {batch:,}"
        panels.append(Panel(title, x, y_axis(lines), lines, (), missing, "not defined"))
    return panels
