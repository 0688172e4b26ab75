"""The matrix as a factorial design: main effects of each axis and interactions of two axes.

A linear model with the seed as a block: value = seed + effect of each level + effect of each pair
of levels + noise (Montgomery 2017, chapters 4 and 5). Interactions of three axes count as noise.
All functions are pure functions of numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from harness.analysis.intervals import TAIL
from harness.results.records.estimates import Bounds
from harness.results.records.study_summary import Cell, Design, Effect

Levels = Mapping[str, Sequence[str]]  # axis -> its levels, the baseline's first
Level = tuple[str, str]  # axis and label
ROUNDING = 1e-9  # nats, or logarithms: smaller standard errors count as 0
ESTIMABLE = 1e-6  # largest deviation of an estimable contrast from its projection


@dataclass(frozen=True)
class Effects:
    """All effects of a design."""

    main: list[Effect]
    interactions: list[Effect]
    design: Design


def estimate(values: Mapping[Cell, Mapping[int, float]], levels: Levels) -> Effects:
    """Fit the model to each cell's values by seed, by least squares; values may be missing."""
    axes = {axis: list(names) for axis, names in levels.items() if len(names) > 1}
    varying = [i for i, axis in enumerate(levels) if axis in axes]
    cells: list[Cell] = []
    seeds_of_rows: list[int] = []
    observed: list[float] = []
    for cell, by_seed in values.items():
        for seed, value in by_seed.items():
            cells.append(tuple(cell[i] for i in varying))
            seeds_of_rows.append(seed)
            observed.append(value)
    y = np.array(observed)
    seeds = sorted(set(seeds_of_rows))
    columns = _Columns(axes)
    n_terms = columns.n_columns

    x = np.zeros((len(y), n_terms + len(seeds)))
    x[:, :n_terms] = columns.matrix(cells)
    column_of_seed = {seed: n_terms + i for i, seed in enumerate(seeds)}
    x[np.arange(len(y)), [column_of_seed[seed] for seed in seeds_of_rows]] = 1
    inverse, rank = _pseudo_inverse(x.T @ x)
    projection = inverse @ x.T @ x  # leaves estimable contrasts unchanged
    fitted = inverse @ x.T @ y
    df = len(y) - rank
    variance = float(((y - x @ fitted) ** 2).sum() / df) if df > 0 else None

    contrasts = np.hstack([columns.contrasts(), np.zeros((n_terms, len(seeds)))])
    estimates = contrasts @ fitted
    deviations = np.abs(contrasts - contrasts @ projection).max(axis=1, initial=0)
    variances = np.einsum("ij,jk,ik->i", contrasts, inverse, contrasts, optimize=True)

    def effect(column: int, *term: Level) -> Effect:
        if not len(y) or deviations[column] > ESTIMABLE:
            return Effect(levels=dict(term))
        value = float(estimates[column])
        if variance is None:
            return Effect(levels=dict(term), estimate=value)
        se = float(np.sqrt(variance * variances[column]))
        bounds, p = _t_interval(value, se, df)
        return Effect(levels=dict(term), estimate=value, se=se, ci95=bounds, p=p)

    seen = set(cells)
    return Effects(
        main=[effect(i, level) for i, level in enumerate(columns.levels)],
        interactions=[
            effect(column, columns.levels[i], columns.levels[j])
            for column, i, j in columns.pairs_by_axes()
        ],
        design=Design(
            runs=len(y),
            degrees_of_freedom=df,
            noise=None if variance is None else float(np.sqrt(variance)),
            missing=[cell for cell in product(*axes.values()) if cell not in seen],
        ),
    )


def _pseudo_inverse(gram: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the pseudo-inverse of a symmetric matrix, and its rank."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > np.finfo(float).eps * len(values) * values.max(initial=0.0)
    return (vectors[:, kept] / values[kept]) @ vectors[:, kept].T, int(kept.sum())


def _t_interval(value: float, se: float, df: int) -> tuple[Bounds, float]:
    """Return the 95 % interval of an estimate, and the p-value of the t test that it is 0."""
    from scipy.special import stdtr, stdtrit

    if se <= ROUNDING:
        return (value, value), 0.0 if abs(value) > ROUNDING else 1.0
    half = float(stdtrit(df, 1 - TAIL)) * se
    return (value - half, value + half), 2 * float(stdtr(df, -abs(value) / se))


class _Columns:
    """The columns of the model: each level but the baseline's, then each pair on two axes."""

    def __init__(self, axes: Levels) -> None:
        self.axes = list(axes)
        self.n_levels = {axis: len(names) for axis, names in axes.items()}
        self.levels = [(axis, name) for axis, names in axes.items() for name in names[1:]]
        pairs = combinations(range(len(self.levels)), 2)
        self.pairs = [(i, j) for i, j in pairs if self.levels[i][0] != self.levels[j][0]]
        self.n_columns = len(self.levels) + len(self.pairs)

    def pairs_by_axes(self) -> list[tuple[int, int, int]]:
        """Return the column and the two levels of each pair, grouped by their axes."""
        columns = [(len(self.levels) + k, i, j) for k, (i, j) in enumerate(self.pairs)]
        order = {pair: k for k, pair in enumerate(combinations(self.axes, 2))}
        return sorted(columns, key=lambda c: order[self.levels[c[1]][0], self.levels[c[2]][0]])

    def matrix(self, cells: Sequence[Cell]) -> np.ndarray:
        """Return the columns of each cell, (n_cells, n_columns), of zeros and ones."""
        has_level = np.zeros((len(cells), len(self.levels)))
        for row, cell in enumerate(cells):
            labels = dict(zip(self.axes, cell, strict=True))
            has_level[row] = [labels[axis] == name for axis, name in self.levels]
        first = [i for i, _ in self.pairs]
        second = [j for _, j in self.pairs]
        return np.hstack([has_level, has_level[:, first] * has_level[:, second]])

    def contrasts(self) -> np.ndarray:
        """Return each term's contrast with the baseline's levels, averaged over the other axes.

        The contrast of a level is its own column plus, for each level of another axis, that level's
        fraction of the pair's column. The contrast of a pair is its own column. One row per column.
        """
        contrasts = np.eye(self.n_columns)
        for k, (i, j) in enumerate(self.pairs):
            column = len(self.levels) + k
            contrasts[i, column] = 1 / self.n_levels[self.levels[j][0]]
            contrasts[j, column] = 1 / self.n_levels[self.levels[i][0]]
        return contrasts
