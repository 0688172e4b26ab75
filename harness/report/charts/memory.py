"""Peak memory of each entry by category, with the prediction."""

from harness.analysis.dataset import Entry
from harness.analysis.metrics import CATEGORIES
from harness.analysis.summary import Summary
from harness.report.charts.entries import bar_rows
from harness.report.charts.spec import Axis, BarRow, Bars, ChartSpec, Part
from harness.report.charts.style import SHADES
from harness.report.charts.text import bars_alt
from harness.report.formatting import MIB

GIB = 2**30
GIB_FROM = 4 * GIB
PARTS = [Part(name, shade) for name, shade in zip(CATEGORIES, SHADES, strict=True)]


def build(summary: Summary) -> list[ChartSpec]:
    """Return the memory of each entry's fullest rank."""
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

    rows = bar_rows(summary, measure)
    subtitle = "fullest rank, by category; number: peak"
    caption = "Memory of each entry's fullest rank, by category; the number is the peak."
    if any(row.predicted is not None for row in rows):
        subtitle += "; line: predicted parameters, gradients and optimizer"
        caption += " The line across a bar is the predicted sum of parameters, gradients and "
        caption += "optimizer state."
    alt = bars_alt("Memory by category", rows, "lowest total", unit_name)
    plot = Bars(Axis(f"{unit_name} per rank"), PARTS, rows)
    return [ChartSpec("memory", "Memory", subtitle, caption, alt, plot)]
