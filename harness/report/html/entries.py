"""The table of entries: a row for each, every cell with the value by which it sorts."""

from dataclasses import dataclass

from harness.analysis.dataset import Entry
from harness.analysis.hypotheses import Quantity
from harness.analysis.metrics import BaselineComparison
from harness.analysis.summary import Summary
from harness.report import formatting as cells
from harness.report.sections import comparison as report
from harness.report.sections import summary as answers

ORDER = ("better", "equivalent", "unresolved", "worse")  # in which verdicts sort


@dataclass(frozen=True)
class Column:
    """A column: its heading, whether it sorts by numbers, and the levels to filter by, where it is an axis."""

    title: str
    numeric: bool = True
    levels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """What a cell shows, what it sorts by (None: by its text, "" where there is nothing), and the word it marks."""

    text: str
    value: float | str | None = None
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """The columns and a row of cells for each entry, in the study's order; the first cell is the entry's name."""

    columns: list[Column]
    rows: list[list[Cell]]


def table(summary: Summary) -> Table:
    """Return every entry with what it reached, what that is worth, and what it cost."""
    study = summary.study
    axes = [Column(axis, False, study.levels[axis]) for axis in study.varying()]
    columns = [
        Column("entry", False),
        Column("val loss"),
        Column("difference"),
        Column("verdict"),
        Column("tokens/s"),
        Column("throughput"),
        Column("peak memory, MiB"),
        Column("MFU"),
        Column("parameters"),
        Column("equivalence", False),
        Column("runs done"),
        *axes,
    ]
    compared = {comparison.entry: comparison for comparison in summary.comparisons}
    bases = {comparison.against for comparison in summary.comparisons}
    rows = [
        _row(
            summary,
            entry,
            compared.get(entry.label),
            "baseline" if entry.label in bases else cells.NONE,
        )
        for entry in study.entries
    ]
    return Table(columns, rows)


def _row(
    summary: Summary, entry: Entry, compared: BaselineComparison | None, alone: str
) -> list[Cell]:
    result = summary.results[entry.label]
    difference = compared.val_loss_difference if compared else None
    speed = result.tokens_per_s
    return [
        Cell(entry.label),
        Cell(
            cells.mean(result.val_loss), _number(result.val_loss.mean if result.val_loss else None)
        ),
        Cell(cells.difference(difference), _number(difference.mean if difference else None)),
        _verdict(summary, compared, "val_loss") if compared else Cell(alone, ""),
        Cell(report.speed(result, cells.median(speed)), _number(speed.median if speed else None)),
        _verdict(summary, compared, "tokens_per_s") if compared else Cell(alone, ""),
        Cell(cells.mib(result.peak_memory_bytes), _number(result.peak_memory_bytes)),
        Cell(report.speed(result, cells.percent(result.mfu)), _number(result.mfu)),
        Cell(f"{result.parameters:,}", result.parameters),
        Cell(result.equivalence or cells.NONE, None, result.equivalence or ""),
        Cell(report.runs_cell(entry).replace(" done", "", 1), len(entry.done)),
        *(Cell(entry.axes[axis]) for axis in summary.study.varying()),
    ]


def _verdict(summary: Summary, compared: BaselineComparison, quantity: Quantity) -> Cell:
    word = answers.verdict_word(
        summary.metric_tests[quantity].entries.get(compared.entry), compared
    )
    if quantity == "tokens_per_s" and compared.speed_diverges:
        word = cells.NO_SPEED
    return Cell(word, ORDER.index(word) if word in ORDER else "", word)


def _number(value: float | None) -> float | str:
    """Return a value to sort by, in as many digits as that takes."""
    return "" if value is None else float(f"{value:.8g}")
