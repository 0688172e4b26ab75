"""Throughput of each entry with its interval."""

from harness.analysis.dataset import Entry
from harness.analysis.summary import Summary
from harness.report.charts.entries import bar_rows
from harness.report.charts.spec import Axis, BarRow, Bars, ChartSpec, Part
from harness.report.charts.text import bars_alt


def build(summary: Summary) -> list[ChartSpec]:
    """Return the throughput of each entry, if any has one."""

    def measure(entry: Entry) -> BarRow | None:
        speed = summary.results[entry.label].tokens_per_s
        if speed is None:
            return None
        text = f"{speed.median:,.0f}"
        return BarRow(entry.label, [speed.median], interval=speed.ci95, text=text)

    rows = bar_rows(summary, measure, is_speed=True)
    if not any(row.values for row in rows):
        return []
    method = "tokens per step over the median step time"
    return [
        ChartSpec(
            name="throughput",
            title="Throughput",
            subtitle=f"{method}; line: bootstrap 95 % interval over seeds and steps",
            caption=f"Throughput of each entry: {method}. Lines: bootstrap 95 % intervals over "
            "seeds and steps.",
            alt=bars_alt("Throughput", rows, "highest", "tokens per second", highest=True),
            plot=Bars(Axis("tokens per second"), [Part("throughput")], rows),
        )
    ]
