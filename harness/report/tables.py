"""Turn frames of numbers into tables of formatted cells."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.report import formatting
from harness.report.document import MAX_OPEN_ROWS, MAX_ROWS, Cell, Table
from harness.report.formatting import Show

Record = Mapping[str, Any]  # a row of a frame: column -> value, None if missing


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, and how to format its cell of a row."""

    title: str
    cell: Callable[[Record], Cell]
    numeric: bool = True


def display(
    caption: str, frame: pd.DataFrame, columns: Sequence[Column], folded: bool | None = None
) -> Table:
    """Return a table with one row for each of the first rows of a frame."""
    rows = []
    for record in records(frame.head(MAX_ROWS)):
        rows.append([column.cell(record) for column in columns])
    titles = [column.title for column in columns]
    numeric = [column.title for column in columns if column.numeric]
    return table(caption, titles, rows, numeric, len(frame), folded)


def table(
    caption: str,
    titles: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    numeric: Iterable[str] = (),
    n_rows: int | None = None,
    folded: bool | None = None,
) -> Table:
    """Return a table of formatted cells, with the first `MAX_ROWS` rows."""
    frame = pd.DataFrame(rows[:MAX_ROWS], columns=list(titles), dtype=object)
    if folded is None:
        folded = len(frame) > MAX_OPEN_ROWS
    return Table(caption, frame, frozenset(numeric), n_rows or len(rows), folded)


def records(frame: pd.DataFrame) -> list[Record]:
    """Return the rows of a frame, with None for every missing value."""
    rows = frame.astype(object).where(frame.notna(), None).itertuples(index=False, name=None)
    return [dict(zip(frame.columns, row, strict=True)) for row in rows]


def interval_of(record: Record, name: str) -> tuple[Any, Any, Any]:
    """Return the value of a column and the ends of its interval."""
    return record[name], record[f"{name}_low"], record[f"{name}_high"]


def text_column(title: str, name: str = "") -> Column:
    """Return a column of text, by default that of its title."""
    return Column(title, lambda record: record[name or title] or formatting.MISSING, numeric=False)


def number_column(title: str, name: str, show: Show = formatting.whole) -> Column:
    """Return a column of numbers without intervals."""
    return Column(title, lambda record: formatting.number(record[name], show))


def interval_column(title: str, name: str, show: Show) -> Column:
    """Return a column of values with 95 % intervals, from `name`, `name_low` and `name_high`."""
    return Column(title, lambda record: formatting.interval(*interval_of(record, name), show))


def difference_column(title: str, name: str) -> Column:
    """Return a column of tested differences with their intervals."""
    return Column(title, lambda record: formatting.difference(*interval_of(record, name)))


def mean_column(title: str, name: str) -> Column:
    """Return a column of means with half the width of their intervals."""
    return Column(title, lambda record: formatting.mean(*interval_of(record, name)))
