"""Bar charts of costs: throughput, memory, step time by phase, and bytes sent."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from harness.analysis.dataset import Entry
from harness.analysis.metrics import CATEGORIES
from harness.analysis.summary import Summary
from harness.report.charts.spec import Axis, BarRow, Bars, ChartSpec, Part
from harness.report.charts.style import SHADES, choose_style
from harness.report.formatting import MIB, NO_SPEED, SECONDS_TO_MS, count, significant_figures

GIB = 2**30
GIB_FROM = 4 * GIB
CATEGORY_PARTS = [Part(name, shade) for name, shade in zip(CATEGORIES, SHADES, strict=True)]
# Waiting comes last and is hatched, since it is not computation.
COMPUTE_PHASES = ("forward", "backward", "optimizer", "other")
PHASE_PARTS = [Part(name, SHADES[i]) for i, name in enumerate(COMPUTE_PHASES)]
PHASE_PARTS.append(Part("waiting", hatched=True))


def throughput(summary: Summary) -> Iterator[ChartSpec]:
    """Return the throughput of each entry with its interval, if any has one."""

    def measure(entry: Entry) -> BarRow | None:
        speed = summary.results[entry.label].tokens_per_s
        if speed is None:
            return None
        text = f"{speed.median:,.0f}"
        return BarRow(entry.label, [speed.median], interval=speed.ci95, text=text)

    rows = _rows(summary, measure, is_speed=True)
    if any(row.values for row in rows):
        title = "Throughput"
        yield ChartSpec(
            name="throughput",
            title=title,
            subtitle="tokens per step over the median step time; line: 95 % interval over seeds",
            alt=_alt(title, rows, "highest", "tokens per second"),
            plot=Bars(Axis("tokens per second"), [Part("throughput")], rows),
        )


def memory(summary: Summary) -> Iterator[ChartSpec]:
    """Return the peak memory of each entry's fullest rank by category, with the prediction."""
    largest = max(result.peak_memory_bytes or 0 for result in summary.results.values())
    unit, unit_name = (GIB, "GiB") if largest >= GIB_FROM else (MIB, "MiB")

    def measure(entry: Entry) -> BarRow | None:
        memory = summary.results[entry.label].memory
        prediction = summary.results[entry.label].predicted_memory
        if memory is None:
            return None
        return BarRow(
            name=entry.label,
            values=[getattr(memory, category) / unit for category in CATEGORIES],
            predicted=sum(prediction.predicted.values()) / unit if prediction else None,
            text=f"{memory.peak / unit:,.1f}",
        )

    rows = _rows(summary, measure)
    if not any(row.values for row in rows):  # imported runs: only the peak may be known
        return
    subtitle = "fullest rank, by category; number: peak"
    if any(row.predicted is not None for row in rows):
        subtitle += "; line: predicted parameters, gradients and optimizer"
    yield ChartSpec(
        name="memory",
        title="Memory",
        subtitle=subtitle,
        alt=_alt("Memory by category", rows, "lowest total", unit_name),
        plot=Bars(Axis(f"{unit_name} per rank"), CATEGORY_PARTS, rows),
    )


def phases(summary: Summary, name: str = "phases") -> Iterator[ChartSpec]:
    """Return the mean time of each phase of a step, if it was measured."""

    def measure(entry: Entry) -> BarRow | None:
        times = summary.results[entry.label].phases
        if times is None:
            return None
        milliseconds = [SECONDS_TO_MS * (times.by_name[part.name] or 0.0) for part in PHASE_PARTS]
        waiting = times.waiting_fraction
        text = "unknown" if waiting is None else f"{waiting:.0%}"
        return BarRow(entry.label, milliseconds, text=text)

    rows = _rows(summary, measure, is_speed=True)
    if not any(row.values for row in rows):
        return
    title = "Step time by phase"
    yield ChartSpec(
        name=name,
        title=title,
        subtitle="mean over ranks; number: fraction spent waiting for communication",
        alt=_alt(title, rows, "shortest step", "ms"),
        plot=Bars(Axis("ms per step"), PHASE_PARTS, rows),
    )


def traffic(summary: Summary) -> Iterator[ChartSpec]:
    """Return the bytes that the busiest rank sends in a step, of the entries that communicate."""

    def measure(entry: Entry) -> BarRow | None:
        sent = summary.results[entry.label].traffic
        if sent is None or not (sent.collectives or sent.predicted_bytes):
            return None
        predicted = None if sent.predicted_bytes is None else sent.predicted_bytes / MIB
        size = sent.sent_bytes / MIB
        return BarRow(entry.label, [size], predicted=predicted, text=f"{size:,.2f}")

    rows = [row for row in _rows(summary, measure) if row.values]
    if rows:
        title = "Bytes sent per step"
        yield ChartSpec(
            name="traffic",
            title=title,
            subtitle="by the busiest rank; line: predicted",
            alt=_alt(title, rows, "fewest", "MiB"),
            plot=Bars(Axis("MiB per step"), [Part("sent", SHADES[1])], rows),
        )


def _rows(
    summary: Summary, measure: Callable[[Entry], BarRow | None], is_speed: bool = False
) -> list[BarRow]:
    """Return a row per entry; one without a measurement shows its status.

    If the measurement is a speed, entries that diverge from the single-process run, ran on
    another machine than the baseline, or shared their machine, have none.
    """
    style = choose_style(summary.study)
    rows = []
    for entry in summary.study.entries:
        row = measure(entry)
        if row is not None and is_speed and entry.label in summary.without_speed:
            row = BarRow(entry.label, note=summary.without_speed[entry.label])
        if row is None:
            diverges = is_speed and entry.label in summary.diverging
            row = BarRow(entry.label, note=NO_SPEED if diverges else _status(entry))
        rows.append(replace(row, group=style.group(entry), colour=style.mark(entry).colour))
    return rows


def _status(entry: Entry) -> str:
    statuses = {f"{run.status}: {run.reason}" if run.reason else run.status for run in entry.runs}
    return ", ".join(sorted(statuses))


def _alt(title: str, rows: Sequence[BarRow], finding: str, unit: str) -> str:
    """Return the alternative text; its finding is the shortest bar, or the longest if highest."""
    totals = {row.name: sum(row.values) for row in rows if row.values}
    text = f"{title} for {count(len(totals), 'entry', 'entries')}"
    if len(totals) < len(rows):
        text += f", {len(rows) - len(totals)} without a result"
    choose = max if finding == "highest" else min
    best = choose(totals, key=lambda name: totals[name])
    return f"{text}; {finding}: {best}, {significant_figures(totals[best])} {unit}."
