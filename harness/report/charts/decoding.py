"""Time per decoded token and KV cache size against the context: one panel per batch size."""

import math
from collections.abc import Callable, Iterator, Sequence

from harness.analysis.dataset import Entry
from harness.analysis.summary import Summary
from harness.report.charts.entries import limit_entries, lines_alt, one_measured
from harness.report.charts.spec import Axis, ChartSpec, Line, Lines, Panel, powers_of_two
from harness.report.charts.style import choose_style
from harness.report.formatting import SECONDS_TO_MS
from harness.results.records.entries import Decoding

MAX_COLUMNS = 4
LARGEST = "at the largest batch and context"


def build(summary: Summary) -> Iterator[ChartSpec]:
    """Return the charts of time per token and cache size, if the decode probe measured any."""
    excluded = summary.without_speed
    summary = limit_entries(one_measured(summary, lambda result: bool(result.decoding)))
    entries = [entry for entry in summary.study.entries if entry.label not in excluded]
    places = [place for entry in entries for place in summary.results[entry.label].decoding]
    if not any(place.seeds for place in places):
        return
    note = ""
    if any(place.reason for place in places):
        note = " A line ends at the last context at which decoding is defined."

    panels = _panels(summary, entries, _step_ms, _time_axis)
    title = "Time per decoded token against context"
    yield ChartSpec(
        name="decode_time",
        title=title,
        subtitle="one token for every sequence of the batch; bars: 95 % interval over seeds",
        note=note,
        alt=lines_alt(summary, title, panels[-1].lines, f"shortest {LARGEST}", "ms", True),
        plot=Lines(panels, min(len(panels), MAX_COLUMNS)),
    )
    panels = _panels(summary, entries, _cache_bytes, _cache_axis)
    title = "KV cache size against context"
    yield ChartSpec(
        name="decode_cache",
        title=title,
        subtitle="of all layers and all sequences of the batch, as allocated",
        note=note,
        alt=lines_alt(summary, title, panels[-1].lines, f"smallest {LARGEST}", "bytes", True),
        plot=Lines(panels, min(len(panels), MAX_COLUMNS)),
    )


def _step_ms(place: Decoding) -> list[float]:
    """Return the time per token and the ends of its interval, or the time itself without one."""
    assert place.decode_step_s
    step_s = place.decode_step_s
    bounds = step_s.ci95 or (step_s.median, step_s.median)
    return [SECONDS_TO_MS * seconds for seconds in (step_s.median, *bounds)]


def _time_axis(lines: Sequence[Line]) -> Axis:
    return Axis("ms per token", (0.0, 1.08 * max(max(line.high) for line in lines)))


def _cache_bytes(place: Decoding) -> list[float]:
    """Return the size of the cache, which has no interval."""
    assert place.cache_bytes
    return [place.cache_bytes] * 3


def _cache_axis(lines: Sequence[Line]) -> Axis:
    low = min(min(line.y) for line in lines) / math.sqrt(2)
    high = max(max(line.y) for line in lines) * math.sqrt(2)
    return Axis("KV cache", (low, high), True, powers_of_two(low, high), binary=True)


def _panels(
    summary: Summary,
    entries: Sequence[Entry],
    measure: Callable[[Decoding], Sequence[float]],
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
