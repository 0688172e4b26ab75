"""Three CSV files: runs, steps, evals; unrounded, and empty where there is nothing."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.export.frames import Record, tables


def write(study: str, records: Sequence[Record], folder: Path, place: Path) -> None:
    """Write `runs.csv`, `steps.csv` and `evals.csv`."""
    for name, kinds, parts in tables(records):
        with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(kinds)
            for part in parts:
                columns = [_cells(part[key], kind is int) for key, kind in kinds.items()]
                writer.writerows(zip(*columns, strict=True))


def _cells(column: np.ndarray | list[Any], whole: bool) -> list[Any]:
    values = column.tolist() if isinstance(column, np.ndarray) else column
    cells = [
        "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
        for value in values
    ]
    return [int(cell) if whole and cell != "" else cell for cell in cells]
