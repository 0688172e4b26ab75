"""Three Parquet files with typed columns: runs, steps, evals; null where there is nothing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from harness.export.frames import Columns, Kind, Record, tables

TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
ROWS_AT_ONCE = 100_000  # in a row group


def write(study: str, records: Sequence[Record], folder: Path, place: Path) -> None:
    """Write `runs.parquet`, `steps.parquet` and `evals.parquet`."""
    for name, kinds, parts in tables(records):
        schema = pa.schema([(key, TYPES[kind]) for key, kind in kinds.items()])
        with pa.parquet.ParquetWriter(folder / f"{name}.parquet", schema) as writer:
            waiting: list[pa.Table] = []
            for part in parts:
                waiting.append(_table(part, kinds, schema))
                if sum(table.num_rows for table in waiting) >= ROWS_AT_ONCE:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
            if waiting:
                writer.write_table(pa.concat_tables(waiting))


def _table(part: Columns, kinds: dict[str, Kind], schema: pa.Schema) -> pa.Table:
    columns = [
        pa.array(
            np.asarray(part[key]).astype(int)
            if kind is int and isinstance(part[key], np.ndarray)
            else part[key],
            TYPES[kind],
            from_pandas=True,
        )
        for key, kind in kinds.items()
    ]
    return pa.table(columns, schema=schema)
