"""Time of a step by phase, and bytes that a rank sends in a step."""

from harness.analysis.summary import Summary
from harness.report.charts.spec import Axis, BarRow, Bars, ChartSpec, Part
from harness.report.charts.style import SHADES, choose_style
from harness.report.charts.text import bars_alt, status_note

MIB = 2**20
# Waiting comes last and is hatched, since it is not computation.
PARTS = (
    Part("forward", SHADES[0]),
    Part("backward", SHADES[1]),
    Part("optimizer", SHADES[2]),
    Part("other", SHADES[3]),
    Part("waiting", hatched=True),
)


def phases(summary: Summary) -> list[ChartSpec]:
    """Return the mean time of each phase of a step."""
    if not any(summary.phases.values()):
        return []
    style = choose_style(summary.study)
    rows = []
    for entry in summary.study.entries:
        breakdown = summary.phases[entry.label]
        group = style.group(entry)
        if breakdown is None:
            note = status_note(entry, diverging=entry.label in summary.diverging)
            rows.append(BarRow(entry.label, group=group, note=note))
            continue
        seconds = [breakdown.by_name[part.name] or 0.0 for part in PARTS]
        waiting = breakdown.waiting_share
        rows.append(
            BarRow(
                name=entry.label,
                values=tuple(1e3 * value for value in seconds),
                group=group,
                text="unknown" if waiting is None else f"{waiting:.0%}",
            )
        )
    return [
        ChartSpec(
            name="phases",
            title="Step time by phase",
            subtitle="mean over ranks; number: fraction spent waiting for communication",
            caption="Step time by phase, mean over ranks; the number is the fraction spent "
            "waiting for communication.",
            alt=bars_alt("Step time by phase", rows, "shortest step", "ms", highest=False),
            plot=Bars(Axis("ms per step"), PARTS, tuple(rows)),
        )
    ]


def traffic(summary: Summary) -> list[ChartSpec]:
    """Return the bytes that the busiest rank sends in a step, with the prediction."""
    style = choose_style(summary.study)
    rows = []
    for entry in summary.study.entries:
        sent = summary.traffic[entry.label]
        if sent is None or not (sent.collectives or sent.predicted_bytes):
            continue
        predicted = sent.predicted_bytes
        rows.append(
            BarRow(
                name=entry.label,
                values=(sent.sent_bytes / MIB,),
                group=style.group(entry),
                predicted=None if predicted is None else predicted / MIB,
                text=f"{sent.sent_bytes / MIB:,.2f}",
            )
        )
    if not rows:
        return []
    return [
        ChartSpec(
            name="traffic",
            title="Bytes sent per step",
            subtitle="by the busiest rank; line: predicted",
            caption="Bytes that the busiest rank sends in a step. The line across a bar is the "
            "prediction.",
            alt=bars_alt("Bytes sent per step", rows, "fewest", "MiB", highest=False),
            plot=Bars(Axis("MiB per step"), (Part("sent", SHADES[1]),), tuple(rows)),
        )
    ]
