"""Throughput against final validation loss, with the Pareto front."""

from collections.abc import Iterator
from dataclasses import replace

from harness.analysis import comparability, lost_seeds
from harness.analysis.intervals import pareto
from harness.analysis.summary import Summary
from harness.report.charts.entries import MAX_ENTRIES, MAX_POINTS
from harness.report.charts.spec import Axis, ChartSpec, Point, Scatter
from harness.report.charts.style import choose_style
from harness.report.formatting import MIB, count

LOSS_DIGITS = 4  # as in the tables: a smaller difference does not put an entry on the front
MAX_GROUPS = 8  # candidates that a legend names


def build(summary: Summary) -> Iterator[ChartSpec]:
    """Return a point per entry that has a throughput, at least two; size shows the peak memory.

    Entries on another machine than the baseline have none. There is no chart if the losses are not
    comparable.
    """
    unit = comparability.unit_of_all(summary.study) if summary.study.entries else None
    if unit is None:
        return
    style = choose_style(summary.study)
    few = len(summary.study.entries) <= MAX_GROUPS
    points = []
    for entry in summary.study.entries:
        result = summary.results[entry.label]
        loss = result.val_loss if unit == "nats per token" else result.bits_per_byte
        if result.tokens_per_s and loss and entry.label not in summary.without_speed:
            memory = result.peak_memory_bytes
            points.append(
                Point(
                    name=entry.label,
                    x=result.tokens_per_s.median,
                    y=loss.mean,
                    interval=result.tokens_per_s.ci95,
                    style=style.mark(entry),
                    group=style.within_panel(entry) if few else "entries",
                    size=memory or 0,
                    detail="memory unknown" if memory is None else f"{memory / MIB:,.1f} MiB",
                )
            )
    if len(points) < 2:
        return
    lowest = sorted(points, key=lambda point: point.y)[:MAX_POINTS]
    kept = {point.name for point in lowest}
    points = [point for point in points if point.name in kept]
    lost = lost_seeds.selected(summary.study.entries)
    whole = [point for point in points if point.name not in lost]
    is_best = pareto([(point.x, round(point.y, LOSS_DIGITS)) for point in whole])
    front = {point.name for point, best in zip(whole, is_best, strict=True) if best}
    largest = max(point.size for point in points) or 1
    points = [
        replace(point, size=point.size / largest, on_front=point.name in front) for point in points
    ]
    title = "Throughput against final validation loss"
    note = " No other entry is better in both than an entry on the Pareto front."
    if lost:
        note += " Entries that lost seeds are not on it."
    if len(points) > MAX_ENTRIES:
        note += f" The figure shows the front and the lowest losses, {MAX_ENTRIES} entries; "
        note += f"the page shows the {count(len(points), 'entry', 'entries')} of lowest loss."
    yield ChartSpec(
        name="throughput_loss",
        title=title,
        subtitle="right and down is better; ringed: Pareto front; "
        "line: 95 % interval of the throughput; size: peak memory",
        note=note,
        alt=_alt(title, points),
        plot=Scatter(Axis("tokens per second"), Axis(f"final validation loss, {unit}"), points),
    )


def _alt(title: str, points: list[Point]) -> str:
    front = [point for point in points if point.on_front]
    if not front:
        return f"{title} for {count(len(points), 'entry', 'entries')}; all lost seeds."
    lowest = min(front, key=lambda point: point.y)
    fastest = max(front, key=lambda point: point.x)
    text = f"{title} for {count(len(points), 'entry', 'entries')}"
    if len(front) == 1:
        return f"{text}; best in both: {lowest.name}."
    return (
        f"{text}; {len(front)} on the Pareto front, from the lowest loss, {lowest.name}, "
        f"to the highest throughput, {fastest.name}."
    )
