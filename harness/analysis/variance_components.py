"""Where the noise comes from: first values, the order of the data, or neither. Field names are those of summary.json.

Two-way crossed random effects (Searle, Casella & McCulloch 1992, chapter 4): the loss of first values i under order j
is mean + i's part + j's part + rest, and the rest holds what the two do together and what repeats nowhere. Which of
them matters decides what a study must repeat (Bouthillier et al. 2021, "Accounting for variance in machine learning
benchmarks").
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.intervals import Bounds
from harness.analysis.metrics import PARALLELISM, baseline_of

Of = Literal["val_loss", "val_loss_difference"]
TAIL = 0.025


@dataclass(frozen=True)
class Component:
    """One source's standard deviation, its 95 % interval, and its share of the variance; 0 where it shows none.

    The rest's interval is that of a chi-squared variance; a source's is Williams's (1962), which holds the true value
    in at least 95 % of cases. Both take the seeds that entries share for one sample, not for several.
    """

    sd: float
    ci95: Bounds
    fraction: float


@dataclass(frozen=True)
class VarianceComponents:
    """The parts of the noise of a final validation loss, or of its difference from the baseline's, nats per token.

    Pooled over the `entries` of which every pair of seeds is done.
    """

    quantity: Of
    entries: list[str]
    seeds: list[int]
    init: Component
    data: Component
    rest: Component


def shares(study: StudyResults) -> list[VarianceComponents]:
    """Return the shares of the noise, where first values and orders were crossed and at least one entry is whole."""
    usual = study.baseline.get(PARALLELISM)
    tables = {
        entry.label: (entry, table)
        for entry in study.entries
        if entry.axes.get(PARALLELISM, usual) == usual and (table := _table(entry))
    }
    losses = {label: table for label, (_, table) in tables.items()}
    differences = {}
    for label, (entry, table) in tables.items():
        base = baseline_of(study, entry)
        if base and base.label in losses and losses[base.label].keys() == table.keys():
            differences[label] = {
                pair: loss - losses[base.label][pair] for pair, loss in table.items()
            }
    wanted: tuple[tuple[Of, dict[str, dict[tuple[int, int], float]]], ...] = (
        ("val_loss", losses),
        ("val_loss_difference", differences),
    )
    return [_shares(of, found) for of, found in wanted if found]


def _table(entry: Entry) -> dict[tuple[int, int], float] | None:
    """Return the final loss of each pair of seeds; None where one is missing, or nothing was crossed."""
    done = [run for run in (*entry.runs, *entry.crossed) if run.status == "done"]
    found = {(run.seed, run.order_seed): float(run.evals.val_loss[-1]) for run in done}
    seeds = {run.seed for run in (*entry.runs, *entry.crossed)}
    return found if len(seeds) > 1 and len(found) == len(seeds) ** 2 else None


def _shares(of: Of, tables: Mapping[str, Mapping[tuple[int, int], float]]) -> VarianceComponents:
    """Pool the entries that have the same seeds as the first."""
    seeds = sorted({seed for seed, _ in next(iter(tables.values()))})
    alike = {
        label: np.array([[table[i, j] for j in seeds] for i in seeds])
        for label, table in tables.items()
        if table.keys() == {(i, j) for i in seeds for j in seeds}
    }
    init, data, rest = components(list(alike.values()))
    return VarianceComponents(of, list(alike), seeds, init, data, rest)


def components(tables: Sequence[np.ndarray]) -> tuple[Component, Component, Component]:
    """Return the parts of rows, of columns, and the rest, from tables of shape (n, n) with the same n of each."""
    n = len(tables[0])
    squares = np.mean([_mean_squares(table) for table in tables], axis=0)
    rest = float(squares[2])
    variances = [max(0.0, (float(square) - rest) / n) for square in squares[:2]] + [rest]
    total = sum(variances) or 1.0
    df, df_rest = n - 1, (n - 1) ** 2
    bounds = [_williams(float(square), rest, n, df, df_rest) for square in squares[:2]]
    bounds.append(
        (rest * df_rest / _chi2(1 - TAIL, df_rest), rest * df_rest / _chi2(TAIL, df_rest))
    )
    init, data, other = (
        Component(math.sqrt(variance), (math.sqrt(low), math.sqrt(high)), variance / total)
        for variance, (low, high) in zip(variances, bounds, strict=True)
    )
    return init, data, other


def _mean_squares(table: np.ndarray) -> tuple[float, float, float]:
    """Return the mean squares of rows, of columns, and of what neither explains."""
    n, mean = len(table), table.mean()
    rows, columns = table.mean(axis=1) - mean, table.mean(axis=0) - mean
    rest = table - mean - rows[:, None] - columns
    return (
        n * (rows**2).sum() / (n - 1),
        n * (columns**2).sum() / (n - 1),
        (rest**2).sum() / (n - 1) ** 2,
    )


def _williams(square: float, rest: float, n: int, df: int, df_rest: int) -> Bounds:
    """Return Williams's interval of the variance of a source with that mean square (1962, Biometrika 49: 278)."""
    from scipy.special import fdtri

    f_high, f_low = float(fdtri(df, df_rest, 1 - TAIL)), float(fdtri(df, df_rest, TAIL))
    low = df * (square - f_high * rest) / (n * _chi2(1 - TAIL, df))
    high = df * (square - f_low * rest) / (n * _chi2(TAIL, df))
    return max(0.0, low), max(0.0, high)


def _chi2(p: float, df: int) -> float:
    from scipy.special import chdtri

    return float(chdtri(df, 1 - p))  # scipy's counts from above
