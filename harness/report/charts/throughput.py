"""Throughput of each entry with its interval."""

from harness.analysis.summary import Summary
from harness.report.charts.spec import Axis, BarRow, Bars, ChartSpec, Part
from harness.report.charts.style import choose_style
from harness.report.charts.text import bars_alt, status_note


def build(summary: Summary) -> list[ChartSpec]:
    """Return the throughput of each entry; entries without one show their status."""
    style = choose_style(summary.study)
    rows = []
    for entry in summary.study.entries:
        speed = summary.results[entry.label].tokens_per_s
        group = style.group(entry)
        if speed is None:
            note = status_note(entry, diverging=entry.label in summary.diverging)
            rows.append(BarRow(entry.label, group=group, note=note))
            continue
        rows.append(
            BarRow(
                name=entry.label,
                values=(speed.median,),
                group=group,
                colour=style.mark(entry).colour,
                interval=speed.ci95,
                text=f"{speed.median:,.0f}",
            )
        )
    if not any(row.values for row in rows):
        return []
    return [
        ChartSpec(
            name="throughput",
            title="Throughput",
            subtitle="tokens per step over the median step time; "
            "line: bootstrap 95 % interval over seeds and steps",
            caption="Throughput of each entry: tokens per step over the median step time. "
            "Lines: bootstrap 95 % intervals over seeds and steps.",
            alt=bars_alt("Throughput", rows, "highest", "tokens per second", highest=True),
            plot=Bars(Axis("tokens per second"), (Part("throughput"),), tuple(rows)),
        )
    ]
