"""Read the step files of a run into columns, merged over its ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from harness.errors import StoreError
from harness.results.files import REMEDY, split_lines
from harness.results.records.base import MAX_COUNT, MAX_NUMBER

_STEP_COLUMNS = ("step", "loss", "tokens", "grad_norm", "lr", "warmup")
_step_values = itemgetter(*_STEP_COLUMNS)

StepLine = dict[str, float | None]


@dataclass(frozen=True)
class Steps:
    """The steps of a run as columns of shape (n_steps,), merged over its ranks.

    `step_s` is the time of the slowest rank, for which all wait. `loss` is the mean over the step's
    global tokens, NaN where it was not finite. `warmup` marks steps that are recorded but not
    timed, `saving` those during which a checkpoint was written.
    """

    step: NDArray[np.int64]
    loss: NDArray[np.float64]
    step_s: NDArray[np.float64]
    tokens: NDArray[np.int64]
    grad_norm: NDArray[np.float64]
    lr: NDArray[np.float64]
    warmup: NDArray[np.bool_]
    saving: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.step)


def read_steps(paths: Sequence[Path]) -> Steps:
    """Merge the step files of the ranks; only steps that every rank has recorded.

    The lines are not read into records one by one: a report reads millions of them.

    Raises:
        StoreError: a line is damaged, or a value is out of its range.
    """
    ranks = [_read_step_lines(path) for path in paths]
    n_steps = min((len(lines) for lines in ranks), default=0)
    try:
        return _merge_steps([lines[:n_steps] for lines in ranks])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise StoreError(f"steps.rank*.jsonl: {type(error).__name__}: {error}") from error


def _read_step_lines(path: Path) -> list[StepLine]:
    lines = []
    for number, text in enumerate(split_lines(path), start=1):
        try:
            line = orjson.loads(text)
        except ValueError:
            line = None
        # Values have no quotes: they are numbers, flags and nulls.
        if not isinstance(line, dict) or text.count(b'"') != 2 * len(line):
            raise StoreError(f"{path}: line {number} is unreadable; {REMEDY}")
        lines.append(line)
    return lines


def _merge_steps(ranks: list[list[StepLine]]) -> Steps:
    first_rank = ranks[0] if ranks else []
    rows = np.array([_step_values(line) for line in first_rank], dtype=float)  # None becomes NaN
    columns = rows.reshape(-1, len(_STEP_COLUMNS)).T
    step, loss, tokens, grad_norm, lr, warmup = (column.copy() for column in columns)
    saving = np.array([line.get("saving", False) for line in first_rank], dtype=bool)
    step_s = np.zeros(len(first_rank))
    for lines in ranks:
        rank_step_s = np.array([line["step_s"] for line in lines], dtype=float)
        step_s = np.maximum(step_s, rank_step_s)  # keeps NaN
    if not np.isfinite([step, tokens]).all():
        raise ValueError("a step has no number or no tokens")
    if (np.abs([step, tokens]) > MAX_COUNT).any() or (np.mod([step, tokens], 1) != 0).any():
        raise ValueError(f"step and tokens must be integers, at most {MAX_COUNT}")
    if (np.abs([loss, grad_norm, lr, step_s]) > MAX_NUMBER).any():
        raise ValueError(f"a value is above {MAX_NUMBER:g}")
    if (np.diff(step) < 0).any():
        raise ValueError("the steps are not in order")
    if not (np.isfinite(step_s).all() and (step_s > 0).all() and (tokens > 0).all()):
        raise ValueError("step_s and tokens must be finite and above zero")
    return Steps(
        step=step.astype(int),
        loss=loss,
        step_s=step_s,
        tokens=tokens.astype(int),
        grad_norm=grad_norm,
        lr=lr,
        warmup=warmup.astype(bool),
        saving=saving,
    )
