"""Time of a step by phase, and bytes that a rank sends in a step."""

from harness.analysis.dataset import Entry
from harness.analysis.summary import Summary
from harness.report.charts.entries import bar_rows
from harness.report.charts.spec import Axis, BarRow, Bars, ChartSpec, Part
from harness.report.charts.style import SHADES
from harness.report.charts.text import bars_alt
from harness.report.formatting import MIB, SECONDS_TO_MS

# Waiting comes last and is hatched, since it is not computation.
PHASES = [
    *(
        Part(name, SHADES[i])
        for i, name in enumerate(("forward", "backward", "optimizer", "other"))
    ),
    Part("waiting", hatched=True),
]


def phases(summary: Summary) -> list[ChartSpec]:
    """Return the mean time of each phase of a step, if it was measured."""
    if not any(result.phases for result in summary.results.values()):
        return []

    def measure(entry: Entry) -> BarRow | None:
        times = summary.results[entry.label].phases
        if times is None:
            return None
        milliseconds = [SECONDS_TO_MS * (times.by_name[part.name] or 0.0) for part in PHASES]
        waiting = times.waiting_fraction
        text = "unknown" if waiting is None else f"{waiting:.0%}"
        return BarRow(entry.label, milliseconds, text=text)

    rows = bar_rows(summary, measure, is_speed=True)
    return [
        ChartSpec(
            name="phases",
            title="Step time by phase",
            subtitle="mean over ranks; number: fraction spent waiting for communication",
            caption="Step time by phase, mean over ranks; the number is the fraction spent "
            "waiting for communication.",
            alt=bars_alt("Step time by phase", rows, "shortest step", "ms"),
            plot=Bars(Axis("ms per step"), PHASES, rows),
        )
    ]


def traffic(summary: Summary) -> list[ChartSpec]:
    """Return the bytes that the busiest rank sends in a step, of the entries that communicate."""

    def measure(entry: Entry) -> BarRow | None:
        sent = summary.results[entry.label].traffic
        if sent is None or not (sent.collectives or sent.predicted_bytes):
            return None
        predicted = None if sent.predicted_bytes is None else sent.predicted_bytes / MIB
        size = sent.sent_bytes / MIB
        return BarRow(entry.label, [size], predicted=predicted, text=f"{size:,.2f}")

    rows = [row for row in bar_rows(summary, measure) if row.values]
    if not rows:
        return []
    return [
        ChartSpec(
            name="traffic",
            title="Bytes sent per step",
            subtitle="by the busiest rank; line: predicted",
            caption="Bytes that the busiest rank sends in a step. The line across a bar is the "
            "prediction.",
            alt=bars_alt("Bytes sent per step", rows, "fewest", "MiB"),
            plot=Bars(Axis("MiB per step"), [Part("sent", SHADES[1])], rows),
        )
    ]
