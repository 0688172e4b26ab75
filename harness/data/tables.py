"""Documents of text files: plain text, JSON lines, and Parquet tables.

A plain text is one document, or several that `<|endoftext|>` separates. Each line of a JSON lines
file is an object, and each row of a Parquet table a record, whose text column is a document.
"""

import gzip
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import orjson

from harness.data import formats
from harness.errors import Problem, UserError, choices
from harness.results.files import open_file, read_file

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

SEPARATOR = "<|endoftext|>"
PARQUET_HINT = "pip install 'ablations[parquet]'"
COMPRESSION = 3  # bytes of text in a byte of a compressed file, about
MAX_PROBLEMS = 5  # of one file that are reported


def documents(file: Path, column: str, place: str) -> Iterator[str]:
    """Yield the documents of a file in their order.

    Raises:
        UserError: the file is of another format or damaged, or the text of a document is missing;
            names file, line or row, and remedy. The message begins with `place`.
    """
    kind = formats.kind_of(file)
    if file.stat().st_size == 0:
        raise UserError([Problem(place, f"{file}: is empty; remove it")])
    try:
        if kind == "JSON lines":
            yield from _json_lines(file, column, place)
        elif kind == "Parquet":
            yield from _parquet(file, column, place)
        else:
            yield from plain_text(file, place).split(SEPARATOR)
    except (OSError, EOFError) as error:
        message = f"{file}: cannot be read ({error}); copy it again"
        raise UserError([Problem(place, message)]) from error


def plain_text(file: Path, place: str) -> str:
    """Return the content of a UTF-8 text.

    Raises:
        UserError: the file holds something else.
    """
    problem = formats.problem_of_suffix(file)
    content = b""
    if problem is None:
        content = read_file(file)
        problem = formats.problem_of_text(content)
    if problem is not None:
        raise UserError([Problem(place, f"{file}: {problem}")])
    return content.decode("utf-8")


def _json_lines(file: Path, column: str, place: str) -> Iterator[str]:
    problems = []
    with _open(file) as stream:
        for number, line in enumerate(stream, start=1):
            content = line.removeprefix(formats.UTF8_BOM) if number == 1 else line
            if not content.strip():
                continue
            value = _text_of(content, column)
            if isinstance(value, str):
                yield value
                continue
            problems.append(Problem(place, f"{file}: line {number}: {value.message}"))
            if len(problems) == MAX_PROBLEMS:
                break
    if problems:
        raise UserError(problems)


def _text_of(line: bytes, column: str) -> str | Problem:
    """Return the text of a line, or why it has none."""
    try:
        row = orjson.loads(line)
    except ValueError as error:
        return Problem("", f"not JSON ({error}); each line must be one object")
    if not isinstance(row, dict):
        return Problem("", f"a JSON {_json_type(row)}; each line must be an object")
    if column not in row:
        return Problem("", no_column(column, list(row)))
    text = row[column]
    if not isinstance(text, str):
        return Problem("", f"'{column}' is a JSON {_json_type(text)}, not text; remove the line")
    return text


def _json_type(value: object) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object" if isinstance(value, dict) else "null")


def no_column(column: str, columns: list[str]) -> str:
    """Return the message on a column that is not among `columns`."""
    return f"no column '{column}'; {choices(column, columns)}; set text_column"


def _open(file: Path) -> BinaryIO:
    """Return the decompressed content of a file of JSON lines."""
    suffix = file.suffix.lower()
    if suffix == ".gz":
        return io.BufferedReader(gzip.open(file))
    if suffix in (".zst", ".zstd"):
        try:
            import pyarrow
        except ImportError as error:
            raise UserError(f"{file}: reading {suffix} needs {PARQUET_HINT}") from error
        stream: BinaryIO = io.BufferedReader(pyarrow.input_stream(str(file), compression="zstd"))
        return stream
    return open_file(file)


def _open_parquet(file: Path, column: str, place: str) -> "ParquetFile":
    """Return a table that has a column of text."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        message = f"{file}: reading a Parquet table needs {PARQUET_HINT}"
        raise UserError([Problem(place, message)]) from error
    try:
        table = pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        message = f"{file}: not a Parquet table, or damaged ({error}); copy it again"
        raise UserError([Problem(place, message)]) from error
    schema = table.schema_arrow
    if column not in schema.names:
        raise UserError([Problem(place, f"{file}: {no_column(column, schema.names)}")])
    dtype = schema.field(column).type
    if not (pyarrow.types.is_string(dtype) or pyarrow.types.is_large_string(dtype)):
        message = f"{file}: the column '{column}' is of type {dtype}, not string; set text_column"
        raise UserError([Problem(place, message)])
    return table


def _parquet(file: Path, column: str, place: str) -> Iterator[str]:
    table = _open_parquet(file, column, place)
    import pyarrow

    n_rows = 0
    try:
        for batch in table.iter_batches(columns=[column]):
            texts = batch.column(0)
            if texts.null_count:
                first = n_rows + 1 + texts.is_null().to_pylist().index(True)
                message = f"{file}: row {first}: '{column}' is null; remove the row"
                raise UserError([Problem(place, message)])
            n_rows += len(texts)
            yield from texts.to_pylist()
    except pyarrow.ArrowException as error:
        message = f"{file}: damaged after row {n_rows} ({error}); copy it again"
        raise UserError([Problem(place, message)]) from error


def text_bytes(file: Path, column: str, place: str) -> int:
    """Return about how many bytes of text a file holds.

    Raises:
        UserError: the file is not a Parquet table that can be read.
    """
    n_bytes = file.stat().st_size
    if formats.kind_of(file) == "Parquet":
        metadata = _open_parquet(file, column, place).metadata
        sizes = [
            metadata.row_group(i).column(j).total_uncompressed_size
            for i, j in itertools.product(
                range(metadata.num_row_groups), range(metadata.num_columns)
            )
            if metadata.row_group(i).column(j).path_in_schema == column
        ]
        return sum(sizes)
    if file.suffix.lower() in (".gz", ".zst", ".zstd"):
        return COMPRESSION * n_bytes
    return n_bytes
