"""Throughput against final validation loss, with the Pareto front."""

from harness.analysis.intervals import pareto
from harness.analysis.summary import Summary
from harness.report.charts.entries import MAX_ENTRIES, MAX_POINTS
from harness.report.charts.spec import Axis, ChartSpec, Point, Scatter
from harness.report.charts.style import choose_style
from harness.report.formatting import MIB, count
from harness.results.records.study_summary import EntryResult

LOSS_DIGITS = 4  # as in the tables: a smaller difference does not put an entry on the front


def build(summary: Summary) -> list[ChartSpec]:
    """Return a point per entry that has a throughput, at least two; size shows the peak memory."""
    results = _timed(summary)
    if len(results) < 2:
        return []
    style = choose_style(summary.study)
    entries = {entry.label: entry for entry in summary.study.entries}
    largest = max(result.peak_memory_bytes or 0 for result in results) or 1
    points = []
    for result, on_front in zip(results, pareto_front(results), strict=True):
        assert result.tokens_per_s
        assert result.val_loss
        memory = result.peak_memory_bytes or 0
        points.append(
            Point(
                name=result.entry,
                x=result.tokens_per_s.median,
                y=result.val_loss.mean,
                interval=result.tokens_per_s.ci95,
                style=style.mark(entries[result.entry]),
                group=result.axes.get(style.colour_axis or "", result.entry),
                size=memory / largest,
                detail=f"{memory / MIB:,.1f} MiB",
                on_front=on_front,
            )
        )
    title = "Throughput against final validation loss"
    subtitle = "right and down is better; ringed: Pareto front; "
    subtitle += "line: 95 % interval of the throughput; size: peak memory"
    caption = (
        f"{title}: right and down is better. Ringed entries are on the Pareto front: no other "
        "entry is better in both. Lines: 95 % intervals of the throughput; larger markers: more "
        "peak memory."
    )
    if len(results) > MAX_ENTRIES:
        caption += f" The figure shows the front and the lowest losses, {MAX_ENTRIES} entries; "
        caption += f"the page shows the {count(len(results), 'entry', 'entries')} of lowest loss."
    plot = Scatter(Axis("tokens per second"), Axis("final validation loss, nats per token"), points)
    return [ChartSpec("throughput_loss", title, subtitle, caption, _alt(title, points), plot)]


def _alt(title: str, points: list[Point]) -> str:
    front = [point for point in points if point.on_front]
    lowest = min(front, key=lambda point: point.y)
    fastest = max(front, key=lambda point: point.x)
    if len(front) == 1:
        return f"{title} for {count(len(points), 'entry', 'entries')}; best in both: {lowest.name}."
    return (
        f"{title} for {count(len(points), 'entry', 'entries')}; "
        f"{len(front)} on the Pareto front, from the lowest loss, {lowest.name}, "
        f"to the highest throughput, {fastest.name}."
    )


def pareto_front(results: list[EntryResult]) -> list[bool]:
    """Return which results are on the Pareto front of throughput and final loss."""
    return pareto(
        [
            (result.tokens_per_s.median, round(result.val_loss.mean, LOSS_DIGITS))
            for result in results
            if result.tokens_per_s and result.val_loss
        ]
    )


def _timed(summary: Summary) -> list[EntryResult]:
    """Return the results with a throughput in the study's order, at most the lowest losses."""
    timed = [result for result in summary.with_results if result.tokens_per_s]
    timed.sort(key=lambda result: result.val_loss.mean if result.val_loss else 0.0)
    kept = {result.entry for result in timed[:MAX_POINTS]}
    return [result for result in summary.with_results if result.entry in kept]
