"""Sources of the noise between seeds: initialization and data order."""

from collections.abc import Iterator

from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Block, paragraph
from harness.report.sections import Charts
from harness.report.tables import Column, display, interval_column, number_column

SOURCES = {"init": "initialization", "data": "data order", "rest": "their interaction and the rest"}
QUANTITIES = {
    "val_loss": "final validation loss",
    "val_loss_difference": "difference from the baseline",
}


def build(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the variance components, if initialization and data seeds are crossed."""
    statuses: list[str] = []
    for entry in summary.study.entries:
        statuses += [run.status for run in entry.crossed]
    if not statuses:
        return
    yield paragraph(
        f"{formatting.count(len(statuses), 'run')} ({statuses.count('done')} done) combine the "
        "initialization of one seed with the data order of another. They are not independent of "
        "the other runs, so only this section uses them. Standard deviations are in nats per "
        "token, from a two-way crossed random-effects model with 95 % intervals (Williams 1962), "
        "pooled over the entries under the baseline's parallelism for which every pair of seeds is "
        "done."
    )
    if "variance" not in summary.tables:
        yield paragraph("No entry has every pair of seeds done yet.")
        return
    columns = [
        Column("noise of", lambda row: QUANTITIES[row["quantity"]], numeric=False),
        Column("source", lambda row: SOURCES[row["source"]], numeric=False),
        number_column("fraction of the variance", "fraction", _whole_percent),
        interval_column("standard deviation", "sd", formatting.fixed),
        Column("entries", lambda row: f"{len(row['entries'])}"),
        Column("seeds", lambda row: f"{len(row['seeds'])} × {len(row['seeds'])}"),
    ]
    yield display("Variance components", summary.tables["variance"], columns)


def _whole_percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"
