"""The validation loss on each corpus of a mixture."""

from collections.abc import Iterator

from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Block, paragraph
from harness.report.formatting import MISSING
from harness.report.sections import Charts
from harness.report.tables import Record, interval_of, records, table

TITLES = ["entry", "corpus", "share", "validation loss", "bits per byte", "Δ loss"]


def build(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the losses by corpus, if the study trains on a mixture."""
    if "corpora" not in summary.tables:
        return
    yield paragraph(
        "Final validation loss on each corpus of the mixture, nats per token, with the 95 % t "
        "interval over seeds. The validation loss of the other tables is the mean of these by the "
        "corpus's share of the training tokens. Δ is the difference from the baseline on the same "
        "validation windows, paired by seed, with the t interval of each, not corrected for their "
        "number."
    )
    rows = [_cells(row) for row in records(summary.tables["corpora"])]
    yield table("Validation loss by corpus", TITLES, rows, TITLES[2:])


def _cells(row: Record) -> list[str]:
    return [
        row["entry"],
        row["corpus"],
        formatting.percent(row["share"]),
        _mean(row, "val_loss"),
        _mean(row, "bits_per_byte"),
        formatting.difference(*interval_of(row, "val_loss_difference"))
        if row["val_loss_difference"] is not None
        else MISSING,
    ]


def _mean(row: Record, name: str) -> str:
    return MISSING if row[name] is None else formatting.mean(*interval_of(row, name))
