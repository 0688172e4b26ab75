"""Split the noise of a loss between initialization, data order and the rest.

Two-way crossed random effects (Searle, Casella & McCulloch 1992, chapter 4): the loss of
initialization i under data order j is mean + a_i + b_j + rest; the rest contains their interaction.
A study must repeat the source with the largest component (Bouthillier et al. 2021, "Accounting
for variance in machine learning benchmarks").
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from harness.analysis import comparability
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.intervals import TAIL
from harness.analysis.metrics import PARALLELISM
from harness.results.records.comparisons import Component, NoisyQuantity, VarianceComponents
from harness.results.records.estimates import Bounds

CrossedLosses = dict[tuple[int, int], float]  # (seed, data seed) -> final validation loss


def variance_components(study: StudyResults) -> list[VarianceComponents]:
    """Return the components of the loss and its difference, of entries with all pairs of seeds.

    Only entries of the baseline's context are pooled: the noise depends on the size of the model.
    """
    baseline_parallelism = study.baseline.get(PARALLELISM)
    losses: dict[str, CrossedLosses] = {}
    differences: dict[str, CrossedLosses] = {}
    in_baseline_context = {axis: study.baseline.get(axis) for axis in study.contexts}
    crossed = [
        entry
        for entry in study.entries
        if entry.axes.get(PARALLELISM, baseline_parallelism) == baseline_parallelism
        and study.context_of(entry) == in_baseline_context
    ]
    for entry in crossed:
        if table := _crossed_losses(entry):
            losses[entry.label] = table
    for entry in crossed:
        base = study.baseline_of(entry)
        if base and not comparability.in_nats(entry, base):
            base = None
        own = losses.get(entry.label)
        other = losses.get(base.label) if base else None
        if own and other and own.keys() == other.keys():
            differences[entry.label] = {pair: loss - other[pair] for pair, loss in own.items()}
    components = [_pooled("val_loss", losses)] if losses else []
    if differences:
        components.append(_pooled("val_loss_difference", differences))
    return components


def _crossed_losses(entry: Entry) -> CrossedLosses | None:
    """Return the loss of each pair of seeds; None if one is missing or seeds are not crossed."""
    runs = [*entry.runs, *entry.crossed]
    losses = {(run.seed, run.order_seed): run.final_loss for run in runs if run.status == "done"}
    n_seeds = len({run.seed for run in runs})
    return losses if n_seeds > 1 and len(losses) == n_seeds**2 else None


def _pooled(quantity: NoisyQuantity, tables: Mapping[str, CrossedLosses]) -> VarianceComponents:
    """Pool the entries that have the same seeds as the first."""
    seeds = sorted({seed for seed, _ in next(iter(tables.values()))})
    pairs = {(i, j) for i in seeds for j in seeds}
    pooled = {
        label: np.array([[table[i, j] for j in seeds] for i in seeds])
        for label, table in tables.items()
        if table.keys() == pairs
    }
    init, data, rest = estimate_components(list(pooled.values()))
    return VarianceComponents(
        quantity=quantity, entries=list(pooled), seeds=seeds, init=init, data=data, rest=rest
    )


def estimate_components(tables: Sequence[np.ndarray]) -> tuple[Component, Component, Component]:
    """Return the components of rows, of columns, and the rest, of tables of one shape (n, n)."""
    n = len(tables[0])
    squares = np.mean([_mean_squares(table) for table in tables], axis=0)
    of_rows, of_columns, rest = (float(square) for square in squares)
    variances = (max(0.0, (of_rows - rest) / n), max(0.0, (of_columns - rest) / n), rest)
    total = sum(variances) or 1.0
    df_rest = (n - 1) ** 2
    rest_bounds = (
        rest * df_rest / _chi2_quantile(1 - TAIL, df_rest),
        rest * df_rest / _chi2_quantile(TAIL, df_rest),
    )
    bounds = (_williams(of_rows, rest, n), _williams(of_columns, rest, n), rest_bounds)
    init, data, other = (
        Component(
            sd=math.sqrt(variance),
            ci95=(math.sqrt(low), math.sqrt(high)),
            fraction=variance / total,
        )
        for variance, (low, high) in zip(variances, bounds, strict=True)
    )
    return init, data, other


def _mean_squares(table: np.ndarray) -> tuple[float, float, float]:
    """Return the mean squares of rows, of columns, and of the residuals."""
    n = len(table)
    mean = table.mean()
    rows = table.mean(axis=1) - mean
    columns = table.mean(axis=0) - mean
    residuals = table - mean - rows[:, None] - columns
    return (
        n * (rows**2).sum() / (n - 1),
        n * (columns**2).sum() / (n - 1),
        (residuals**2).sum() / (n - 1) ** 2,
    )


def _williams(square: float, rest: float, n: int) -> Bounds:
    """Return Williams's interval of a source's variance, from its mean square and that of the rest.

    Source: Williams (1962), Biometrika 49: 278.
    """
    from scipy.special import fdtri

    df = n - 1
    df_rest = (n - 1) ** 2
    f_high = float(fdtri(df, df_rest, 1 - TAIL))
    f_low = float(fdtri(df, df_rest, TAIL))
    low = df * (square - f_high * rest) / (n * _chi2_quantile(1 - TAIL, df))
    high = df * (square - f_low * rest) / (n * _chi2_quantile(TAIL, df))
    return max(0.0, low), max(0.0, high)


def _chi2_quantile(p: float, df: int) -> float:
    from scipy.special import chdtri

    return float(chdtri(df, 1 - p))  # chdtri takes the upper tail
