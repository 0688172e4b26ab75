"""Read tables: CSV, TSV, JSON lines and Parquet, with the place of each row."""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import Problem
from harness.results.files import read_file

Value = object  # str, int, float, bool or None; tables may hold others, which are refused

PARQUET_HINT = "pip install 'ablations[parquet]'"


@dataclass(frozen=True)
class Row:
    """A row by column, and its place: file and line."""

    place: str
    values: Mapping[str, Value]


@dataclass
class Table:
    """A file with its columns, rows and problems."""

    path: Path
    sha256: str
    columns: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add_problem(self, message: str, place: str = "") -> None:
        """Add a problem of the file, or of a row if `place` is given."""
        self.problems.append(Problem(place or str(self.path), message))


def read_tables(path: Path) -> list[Table]:
    """Read a table, or all tables of a folder by name. Problems are listed, not raised."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in READERS)
        if not files:
            table = Table(path, "")
            table.add_problem(f"the folder has no table ({', '.join(READERS)})")
            return [table]
        return [_read(file) for file in files]
    return [_read(path)]


def _read(path: Path) -> Table:
    read = READERS.get(path.suffix.lower())
    try:
        content = read_file(path)
    except OSError as error:
        table = Table(path, "")
        table.add_problem(f"cannot be read ({error.strerror or error})")
        return table
    table = Table(path, hashlib.sha256(content).hexdigest())
    if read is None:
        table.add_problem(f"must be a table: {', '.join(READERS)}")
        return table
    try:
        read(table, content)
    except UnicodeDecodeError as error:
        table.add_problem(f"is not UTF-8 text ({error.reason} at byte {error.start})")
    if not table.rows and not table.problems:
        table.add_problem("is empty: it has no rows")
    return table


def _read_delimited(table: Table, content: bytes, delimiter: str) -> None:
    text = content.decode("utf-8-sig")
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    while True:
        try:
            cells = next(lines, None)
        except csv.Error as error:
            message = f"is not a CSV file ({error})"
            table.add_problem(message, f"{table.path}: line {lines.line_num}")
            return
        if cells is None:
            return
        place = f"{table.path}: line {lines.line_num}"
        stripped = [cell.strip() for cell in cells]
        if not any(stripped):
            continue
        if not table.columns:
            if not _set_columns(table, stripped, delimiter):
                return
            continue
        if len(stripped) != len(table.columns):
            message = f"has {len(stripped)} values for {len(table.columns)} columns"
            table.add_problem(message, place)
            continue
        table.rows.append(Row(place, dict(zip(table.columns, stripped, strict=True))))


def _set_columns(table: Table, names: list[str], delimiter: str) -> bool:
    """Set the columns and return whether they can be used."""
    counts = Counter(names)
    for i, name in enumerate(names, start=1):
        if not name:
            table.add_problem(
                f"column {i} has no name; remove it (pandas: to_csv(..., index=False)) or name it"
            )
    for name, n in counts.items():
        if name and n > 1:
            table.add_problem(f"{n} columns are named '{name}'; keep one of them")
    if len(names) == 1 and ";" in names[0] and delimiter == ",":
        table.add_problem("its values are separated by ';'; separate them by commas")
    table.columns = names
    return not table.problems


def _read_csv(table: Table, content: bytes) -> None:
    _read_delimited(table, content, ",")


def _read_tsv(table: Table, content: bytes) -> None:
    _read_delimited(table, content, "\t")


def _read_json_lines(table: Table, content: bytes) -> None:
    for number, line in enumerate(content.decode("utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{table.path}: line {number}"
        try:
            values = json.loads(line)
        except ValueError as error:
            table.add_problem(f"is not JSON ({error}); each line must be one object", place)
            continue
        if not isinstance(values, dict):
            table.add_problem("is not an object; each line must be one object", place)
            continue
        table.rows.append(Row(place, values))
        table.columns += [name for name in values if name not in table.columns]


def _read_parquet(table: Table, content: bytes) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        table.add_problem(f"reading a Parquet table needs {PARQUET_HINT}")
        return
    try:
        read = pyarrow.parquet.read_table(io.BytesIO(content))
    except pyarrow.ArrowException as error:
        table.add_problem(f"is not a Parquet table, or damaged ({error})")
        return
    table.columns = list(read.column_names)
    for number, values in enumerate(read.to_pylist(), start=1):
        table.rows.append(Row(f"{table.path}: row {number}", values))


READERS: Mapping[str, Callable[[Table, bytes], None]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
