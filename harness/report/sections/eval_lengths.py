"""Loss at sequence lengths other than the trained one."""

from collections.abc import Sequence

from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Block, BulletList, Section, Table, code_list, paragraph, text
from harness.report.sections import Charts, chart_blocks
from harness.report.tables import Record, records, table


def build(summary: Summary, charts: Charts) -> Section | None:
    """Return the losses by length, if the study evaluates other lengths."""
    if "lengths" not in summary.tables:
        return None
    rows = records(summary.tables["lengths"])
    assert summary.study.spec is not None
    trained = summary.study.spec.model.seq_len
    blocks: list[Block] = [
        paragraph(
            "Loss of the trained model, nats per token, on sequences of each length; training used "
            f"sequences of {trained:,} tokens. Every length covers about the same number of "
            "validation tokens, in windows that do not overlap. Each window starts without "
            "context, so tokens of longer windows have more context on average."
        ),
        _by_length("Validation loss by sequence length", rows, _losses(rows), trained),
    ]
    reasons = _reasons(rows)
    if reasons.items:
        blocks.append(reasons)
    compared = [row for row in rows if row["val_loss_difference"] is not None]
    if compared:
        blocks += [
            paragraph(
                "Difference from the baseline at the same length, paired by seed, where both are "
                "defined, with the 95 % t interval:"
            ),
            _by_length(
                "Difference from the baseline by sequence length",
                compared,
                [_difference(row) for row in compared],
                trained,
            ),
        ]
    blocks += chart_blocks(charts, "length_loss", "position_loss")
    return Section("eval-lengths", "Other sequence lengths", tuple(blocks))


def _by_length(caption: str, rows: Sequence[Record], cells: Sequence[str], trained: int) -> Table:
    """Return a table with one row per entry and one column per length; a cell for each row."""
    lengths = sorted({row["length"] for row in rows})
    by_entry: dict[str, dict[int, str]] = {}
    for row, cell in zip(rows, cells, strict=True):
        by_entry.setdefault(row["entry"], {})[row["length"]] = cell
    titles = [f"{n:,} (trained)" if n == trained else f"{n:,}" for n in lengths]
    table_rows = []
    for entry, by_length in by_entry.items():
        table_rows.append([entry, *(by_length.get(n, formatting.MISSING) for n in lengths)])
    return table(caption, ["entry", *titles], table_rows, numeric=titles)


def _losses(rows: Sequence[Record]) -> list[str]:
    cells = []
    for row in rows:
        loss = formatting.mean(row["val_loss"], row["val_loss_low"], row["val_loss_high"])
        if row["val_loss"] is None:
            loss = "not defined"
        elif row["reason"]:
            loss += f" (of {formatting.count(len(row['seeds']), 'seed')})"
        cells.append(loss)
    return cells


def _difference(row: Record) -> str:
    name = "val_loss_difference"
    return formatting.difference(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _reasons(rows: Sequence[Record]) -> BulletList:
    """List why a loss is not defined, with the entries of each reason."""
    entries: dict[str, list[str]] = {}
    for row in rows:
        if row["reason"] and row["entry"] not in entries.setdefault(row["reason"], []):
            entries[row["reason"]].append(row["entry"])
    items = (
        text(f"Not defined, {reason}: ", code_list(labels), ".")
        for reason, labels in entries.items()
    )
    return BulletList(tuple(items))
