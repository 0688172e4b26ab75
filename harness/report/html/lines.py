"""The charts with points and lines: the trade-off, decoding, lengths, scaling."""

from collections.abc import Callable

from harness.analysis.decoding import Decoding
from harness.analysis.intervals import Bounds
from harness.analysis.metrics import Result
from harness.analysis.summary import Summary
from harness.report.charts.small_multiples import of_one_parallelism
from harness.report.charts.style import COLOURS, Look
from harness.report.formatting import MIB
from harness.report.html.plots import (
    MOST_LINES,
    MOST_POINTS,
    Chart,
    Point,
    Trace,
    chart,
    entry_line,
    error,
    first,
    points_and_line,
)
from harness.report.html.style import SYMBOLS, line, plain, rounded

Measured = tuple[float, Bounds | None]
SMALLEST, LARGEST = 8, 26  # pixels: the marks of no memory and of the most


def tradeoff(summary: Summary, look: Look) -> Chart | None:
    """Draw throughput against loss, the marks as large as the memory; the legend shows and hides variants."""
    results = [
        result
        for result in summary.with_results
        if result.tokens_per_s and result.peak_memory_bytes
    ]
    if len(results) < 2:
        return None
    largest = max(result.peak_memory_bytes or 0 for result in results)
    groups: dict[str, list[Result]] = {}
    for result in results[:MOST_POINTS]:
        groups.setdefault(result.axes.get(look.colour_axis or "", result.entry), []).append(result)
    caption = (
        "Throughput against final validation loss: right and down is better; the larger the mark, the more peak "
        "memory; lines: 95 % interval of the throughput." + first(results, MOST_POINTS, "entries")
    )
    data = [_marks(summary, look, name, members, largest) for name, members in groups.items()]
    return chart(
        "tradeoff", caption, data, "tokens per second", "final validation loss, nats per token"
    )


def _marks(summary: Summary, look: Look, name: str, results: list[Result], largest: int) -> Trace:
    entries = {entry.label: entry for entry in summary.study.entries}
    looks = [line(look, entries[result.entry]) for result in results]
    shares = [(result.peak_memory_bytes or 0) / largest for result in results]
    speeds = [result.tokens_per_s for result in results if result.tokens_per_s]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(name),
        "x": rounded(speed.median for speed in speeds),
        "y": rounded(result.val_loss.mean for result in results if result.val_loss),
        "error_x": error([speed.median for speed in speeds], [speed.ci95 for speed in speeds]),
        "text": [
            f"{plain(r.entry)}<br>{(r.peak_memory_bytes or 0) / MIB:,.1f} MiB" for r in results
        ],
        "hovertemplate": "%{text}<br>%{x:,.0f} tokens/s<br>loss %{y:.4f}<extra></extra>",
        "marker": {
            "color": looks[0]["colour"],
            "symbol": [one["symbol"] for one in looks],
            "opacity": 0.8,
            "size": rounded(SMALLEST + (LARGEST - SMALLEST) * share**0.5 for share in shares),
        },
    }


def decoding(summary: Summary, look: Look) -> list[Chart | None]:
    """Draw what a decoded token takes, and the cache, against the context."""
    return [
        _decoded(
            summary,
            look,
            "decode_time",
            "Time per decoded token against context",
            "ms per token",
            _step_ms,
        ),
        _decoded(
            summary,
            look,
            "decode_cache",
            "Size of the key-value cache against context",
            "MiB",
            _cache_mib,
        ),
    ]


def _step_ms(found: Decoding) -> Measured:
    assert found.decode_step_s
    low, high = found.decode_step_s.ci95
    return 1e3 * found.decode_step_s.median, (1e3 * low, 1e3 * high)


def _cache_mib(found: Decoding) -> Measured:
    return (found.cache_bytes or 0) / MIB, None


def _decoded(
    summary: Summary,
    look: Look,
    name: str,
    title: str,
    unit: str,
    measured: Callable[[Decoding], Measured],
) -> Chart | None:
    asked = [
        entry
        for entry in summary.study.entries
        if any(found.seeds for found in summary.decoding[entry.label])
    ]
    if not asked:
        return None
    entries = of_one_parallelism(summary.study, asked)
    found = {
        entry.label: [at for at in summary.decoding[entry.label] if at.seeds] for entry in entries
    }
    batches = sorted({at.batch for places in found.values() for at in places})
    data: list[Trace] = []
    for entry in entries[:MOST_LINES]:
        for i, batch in enumerate(batches):
            points: list[Point] = [
                (at.context, *measured(at)) for at in found[entry.label] if at.batch == batch
            ]
            trace = entry_line(look, entry, f"{entry.label}, batch {batch:,}", points)
            trace["marker"]["symbol"] = SYMBOLS[i % len(SYMBOLS)]
            data.append(trace)
    caption = f"{title}: a mark for each batch; of entries that differ in the parallelism alone, one is shown."
    contexts = (at.context for places in found.values() for at in places)
    return chart(
        name,
        caption + first(entries, MOST_LINES, "entries"),
        data,
        "context, positions",
        unit,
        contexts,
    )


def lengths(summary: Summary, look: Look) -> Chart | None:
    """Draw the loss of each entry on sequences of each length."""
    asked = [
        entry
        for entry in summary.study.entries
        if any(at.val_loss for at in summary.lengths[entry.label])
    ]
    if not asked:
        return None
    entries = of_one_parallelism(summary.study, asked)
    data, places = [], set()
    for entry in entries[:MOST_LINES]:
        at_lengths = [
            (at.length, at.val_loss) for at in summary.lengths[entry.label] if at.val_loss
        ]
        data.append(
            entry_line(
                look,
                entry,
                entry.label,
                [(length, loss.mean, loss.ci95) for length, loss in at_lengths],
            )
        )
        places |= {length for length, _ in at_lengths}
    caption = "Validation loss against the length of the sequences; lines: 95 % t interval over seeds; of entries that "
    caption += "differ in the parallelism alone, one is shown." + first(
        entries, MOST_LINES, "entries"
    )
    return chart("lengths", caption, data, "length, tokens", "loss, nats per token", places)


def scaling(summary: Summary) -> Chart | None:
    """Draw the speed-up against the number of processes, and what would be ideal."""
    groups: dict[str, list[Point]] = {}
    for scale in summary.scaling:
        groups.setdefault(scale.group, []).append(
            (scale.world_size, scale.speedup.ratio, scale.speedup.ci95)
        )
    if not groups:
        return None
    data = []
    for i, (name, points) in enumerate(list(groups.items())[:MOST_LINES]):
        how = {
            "line": {"color": COLOURS[i % len(COLOURS)]},
            "marker": {"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 8},
        }
        data.append(points_and_line(name, points) | how)
    places = sorted({scale.world_size for scale in summary.scaling})
    least = min(scale.against_world_size for scale in summary.scaling)
    ideal = {
        "type": "scatter",
        "mode": "lines",
        "name": "ideal",
        "x": places,
        "y": [n / least for n in places],
    }
    data.append(ideal | {"line": {"color": "#808080", "dash": "dash"}})
    caption = "Speed-up against the number of processes; lines: 95 % interval."
    return chart(
        "scaling",
        caption + first(list(groups), MOST_LINES, "kinds"),
        data,
        "processes",
        "speed-up",
        places,
    )
