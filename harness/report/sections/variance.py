"""Sources of the noise between seeds: initialization and data order."""

from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Block, Section, paragraph
from harness.report.formatting import count
from harness.report.sections import Charts
from harness.report.tables import Column, Record, display, number_column

SOURCES = {"init": "initialization", "data": "data order", "rest": "their interaction and the rest"}
QUANTITIES = {
    "val_loss": "final validation loss",
    "val_loss_difference": "difference from the baseline",
}


def build(summary: Summary, charts: Charts) -> Section | None:
    """Return the variance components, if initialization and data seeds are crossed."""
    statuses: list[str] = []
    for entry in summary.study.entries:
        statuses += [run.status for run in entry.crossed]
    if not statuses:
        return None
    method = paragraph(
        f"{count(len(statuses), 'run')} ({statuses.count('done')} done) combine the initialization "
        "of one seed with the data order of another. They are not independent of the other runs, "
        "so only this section uses them. Standard deviations are in nats per token, from a two-way "
        "crossed random-effects model with 95 % intervals (Williams 1962), pooled over the entries "
        "under the baseline's parallelism for which every pair of seeds is done."
    )
    content: Block = paragraph("No entry has every pair of seeds done yet.")
    if "variance" in summary.tables:
        content = display(
            "Variance components",
            summary.tables["variance"],
            [
                Column("noise of", lambda row: QUANTITIES[row["quantity"]], numeric=False),
                Column("source", lambda row: SOURCES[row["source"]], numeric=False),
                number_column("fraction of the variance", "fraction", _whole_percent),
                Column("standard deviation", _standard_deviation),
                Column("entries", lambda row: f"{len(row['entries'])}"),
                Column("seeds", lambda row: f"{len(row['seeds'])} × {len(row['seeds'])}"),
            ],
        )
    return Section("variance", "Sources of noise", (method, content))


def _whole_percent(fraction: float | None) -> str:
    return formatting.MISSING if fraction is None else f"{100 * fraction:.0f} %"


def _standard_deviation(row: Record) -> str:
    return f"{row['sd']:.4f} [{row['sd_low']:.4f}, {row['sd_high']:.4f}]"
