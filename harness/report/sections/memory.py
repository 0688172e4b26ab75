"""Memory of the fullest rank by category, measured and predicted."""

from collections.abc import Iterator

from harness.analysis.metrics import CATEGORIES
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Block, Cell, Section, paragraph
from harness.report.sections import Charts, chart_blocks
from harness.report.sections.predictions import (
    deviation_warning,
    exceeds_tolerance,
    signed_percent,
)
from harness.report.tables import table

METHOD = (
    "MiB of the fullest rank. On CUDA the peak is the allocator's. On a CPU it is the sum of the "
    "categories, which are computed from the tensors. The resident peak covers the whole process "
    "and is listed separately."
)
PREDICTION = (
    "In theory a rank holds its shard of the parameters and of the gradients, 4 bytes each, and of "
    "the two states of Adam. Predicted MiB, and the relative deviation of the measurement:"
)


def build(summary: Summary, charts: Charts) -> Section | None:
    """Return the memory of the entries that have results."""
    measured = {row.entry: row.memory for row in summary.with_results if row.memory}
    if not measured:
        return None
    keys = [*CATEGORIES, "peak", "resident_peak"]
    titles = [key.replace("_", " ") for key in keys]
    rows = []
    for label, memory in measured.items():
        rows.append([label, *(formatting.mib(getattr(memory, key)) for key in keys)])
    return Section(
        "memory",
        "Memory",
        (
            *chart_blocks(charts, "memory"),
            paragraph(METHOD),
            table("Memory by category, MiB", ["entry", *titles], rows, numeric=titles),
            *_predictions(summary),
        ),
    )


def _predictions(summary: Summary) -> Iterator[Block]:
    """Return the memory between steps that theory predicts, and entries that deviate from it."""
    predicted = {
        label: result.predicted_memory
        for label, result in summary.results.items()
        if result.predicted_memory
    }
    if not predicted:
        return
    categories = list(next(iter(predicted.values())).predicted)
    titles = []
    for category in categories:
        titles += [category, f"{category}, deviation"]
    rows: list[list[Cell]] = []
    deviating = []
    for label, held in predicted.items():
        row: list[Cell] = [label]
        for category in categories:
            row.append(formatting.mib(held.predicted[category]))
            row.append(signed_percent(held.deviation[category]))
        rows.append(row)
        if any(exceeds_tolerance(deviation) for deviation in held.deviation.values()):
            deviating.append(label)
    yield paragraph(PREDICTION)
    yield table("Predicted memory, MiB", ["entry", *titles], rows, numeric=titles)
    if deviating:
        yield deviation_warning(deviating, "memory")
