"""Peak memory of each entry by category, with the prediction."""

from harness.analysis.metrics import CATEGORIES
from harness.analysis.summary import Summary
from harness.report.charts.spec import Axis, BarRow, Bars, ChartSpec, Part
from harness.report.charts.style import SHADES, choose_style
from harness.report.charts.text import bars_alt, status_note

MIB = 2**20
GIB = 2**30
GIB_FROM = 4 * GIB


def build(summary: Summary) -> list[ChartSpec]:
    """Return the memory of each entry's fullest rank."""
    results = summary.results
    largest = max(result.peak_memory_bytes or 0 for result in results.values())
    unit, unit_name = (GIB, "GiB") if largest >= GIB_FROM else (MIB, "MiB")
    style = choose_style(summary.study)
    rows = []
    for entry in summary.study.entries:
        memory = results[entry.label].memory
        group = style.group(entry)
        if memory is None:
            rows.append(BarRow(entry.label, group=group, note=status_note(entry)))
            continue
        prediction = summary.predicted_memory[entry.label]
        rows.append(
            BarRow(
                name=entry.label,
                values=tuple((memory.get(category) or 0) / unit for category in CATEGORIES),
                group=group,
                predicted=sum(prediction.predicted.values()) / unit if prediction else None,
                text=f"{(memory['peak'] or 0) / unit:,.1f}",
            )
        )
    subtitle = "fullest rank, by category; number: peak"
    caption = "Memory of each entry's fullest rank, by category; the number is the peak."
    if any(row.predicted is not None for row in rows):
        subtitle += "; line: predicted parameters, gradients and optimizer"
        caption += " The line across a bar is the predicted sum of parameters, gradients and "
        caption += "optimizer state."
    return [
        ChartSpec(
            name="memory",
            title="Memory",
            subtitle=subtitle,
            caption=caption,
            alt=bars_alt("Memory by category", rows, "lowest total", unit_name, highest=False),
            plot=Bars(
                Axis(f"{unit_name} per rank"),
                tuple(Part(name, shade) for name, shade in zip(CATEGORIES, SHADES, strict=True)),
                tuple(rows),
            ),
        )
    ]
