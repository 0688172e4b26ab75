"""Turn frames of numbers into tables of formatted cells."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.report import formatting
from harness.report.document import MAX_ROWS, Cell, Table

if TYPE_CHECKING:
    import pandas as pd

Record = Mapping[str, Any]  # a row of a frame: column -> value, None if missing
Formatter = Callable[[Any], Cell]
IntervalFormatter = Callable[[Any, Any, Any], Cell]


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, and how to format its cell of a row."""

    title: str
    cell: Callable[[Record], Cell]
    numeric: bool = True


def display(
    caption: str, frame: "pd.DataFrame", columns: Sequence[Column], folded: bool | None = None
) -> Table:
    """Return a table with one row for each of the first rows of a frame."""
    rows = []
    for record in records(frame, MAX_ROWS):
        rows.append([column.cell(record) for column in columns])
    titles = [column.title for column in columns]
    numeric = [column.title for column in columns if column.numeric]
    return table(caption, titles, rows, numeric, len(frame), folded)


def table(
    caption: str,
    titles: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    numeric: Sequence[str] = (),
    n_rows: int | None = None,
    folded: bool | None = None,
) -> Table:
    """Return a table of formatted cells, with the first `MAX_ROWS` rows."""
    import pandas as pd

    frame = pd.DataFrame(list(rows)[:MAX_ROWS], columns=list(titles), dtype=object)
    total = len(rows) if n_rows is None else n_rows
    return Table(caption, frame, frozenset(numeric), total, folded)


def records(frame: "pd.DataFrame", limit: int | None = None) -> list[Record]:
    """Return the rows of a frame, at most `limit`, with None for every missing value."""
    head = frame if limit is None else frame.head(limit)
    names = [str(name) for name in head.columns]
    rows = head.astype(object).where(head.notna(), None).itertuples(index=False, name=None)
    return [dict(zip(names, row, strict=True)) for row in rows]


def text_column(title: str, name: str) -> Column:
    """Return a column of text."""
    return Column(title, lambda record: record[name] or formatting.MISSING, numeric=False)


def number_column(title: str, name: str, show: Formatter) -> Column:
    """Return a column of numbers without intervals."""
    return Column(title, lambda record: show(record[name]))


def count_column(title: str, name: str) -> Column:
    """Return a column of whole numbers."""
    return number_column(title, name, lambda n: formatting.MISSING if n is None else f"{n:,}")


def interval_column(title: str, name: str, show: IntervalFormatter) -> Column:
    """Return a column of values with 95 % intervals, from `name`, `name_low` and `name_high`."""
    return Column(
        title, lambda record: show(record[name], record[f"{name}_low"], record[f"{name}_high"])
    )
