"""The matrix as a factorial design: main effects of each axis and interactions of two axes.

A main effect is a contrast of cells: the mean over the other axes of a level, minus that of the
baseline's level. An interaction is the effect of two levels together beyond the sum of each. Each
seed gives one value of each contrast, so that whatever the seed adds to all cells cancels. The
values of an effect over seeds are its own noise: its seed x term stratum (Montgomery 2017, chapters
5 and 14). Noise that a seed adds to one level counts in the effects of that level, and only there.

In a seed with all cells, contrasts are means of cells and assume nothing. In a seed without some,
they are fitted by least squares to a model without interactions of three axes or more. A seed from
which a contrast cannot be estimated has no value of it.
All functions are pure functions of numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from harness.analysis.significance import ROUNDING, is_constant
from harness.results.records.comparisons import Cell, Design

Levels = Mapping[str, Sequence[str]]  # axis -> its levels, the baseline's first
ESTIMABLE = 1e-6  # largest deviation of an estimable contrast from its projection


@dataclass(frozen=True)
class Contrast:
    """The effect of `levels` against the baseline's levels in each seed that it is estimable in.

    `is_model_free`: no interaction of three axes is assumed to be 0 in place of missing cells.
    """

    levels: dict[str, str]
    by_seed: dict[int, float]
    is_model_free: bool


@dataclass(frozen=True)
class Contrasts:
    """All contrasts of a design."""

    main: list[Contrast]
    interactions: list[Contrast]
    design: Design


def contrasts(
    values: Mapping[Cell, Mapping[int, float]], levels: Levels, without_noise: bool = False
) -> Contrasts:
    """Return the contrasts of each cell's values by seed; values may be missing.

    If the metric is one `without_noise` and no cell's value differs between seeds, each cell is one
    observation, which all seeds share: a cell that some seeds lack has its value from the others.
    """
    axes = {axis: list(names) for axis, names in levels.items() if len(names) > 1}
    varying = [i for i, axis in enumerate(levels) if axis in axes]
    by_cell = {tuple(cell[i] for i in varying): dict(found) for cell, found in values.items()}
    seeds = sorted(set().union(*by_cell.values()))
    if without_noise and all(is_constant(list(found.values())) for found in by_cell.values()):
        by_cell = {
            cell: dict.fromkeys(seeds, next(iter(found.values())))
            for cell, found in by_cell.items()
        }
    cells_by_seed = {
        seed: tuple(cell for cell, found in by_cell.items() if seed in found) for seed in seeds
    }
    all_cells = list(product(*axes.values()))
    columns = _Columns(axes)
    found: list[dict[int, float]] = [{} for _ in range(columns.n_columns)]
    for cells in set(cells_by_seed.values()):
        weights, is_estimable = columns.weights(cells)
        of_cells = [seed for seed in seeds if cells_by_seed[seed] == cells]
        observed = np.array([[by_cell[cell][seed] for seed in of_cells] for cell in cells])
        estimates = weights @ observed
        estimates[np.abs(estimates) <= ROUNDING * np.abs(observed).max()] = 0.0
        for column in np.flatnonzero(is_estimable):
            found[column] |= dict(zip(of_cells, estimates[column].tolist(), strict=True))
    n_cells = {len(cells) for cells in cells_by_seed.values()}
    is_model_free = len(axes) < 3 or n_cells <= {len(all_cells)}

    def contrast(column: int, *term: tuple[str, str]) -> Contrast:
        return Contrast(dict(term), dict(sorted(found[column].items())), is_model_free)

    return Contrasts(
        main=[contrast(i, level) for i, level in enumerate(columns.levels)],
        interactions=[
            contrast(column, columns.levels[i], columns.levels[j])
            for column, i, j in columns.pairs_by_axes()
        ],
        design=Design(
            runs=sum(len(found) for found in values.values()),
            seeds=len(seeds),
            missing=[cell for cell in all_cells if cell not in by_cell],
        ),
    )


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

    def weights(self, cells: Sequence[Cell]) -> tuple[np.ndarray, np.ndarray]:
        """Return the weight of each cell of a seed in each contrast, and which are estimable.

        The weights, (n_columns, n_cells), are those of least squares with an intercept.
        """
        x = np.hstack([np.ones((len(cells), 1)), self.matrix(cells)])
        gram = x.T @ x
        inverse = _pseudo_inverse(gram)
        wanted = np.hstack([np.zeros((self.n_columns, 1)), self.contrasts()])
        projected = wanted @ inverse
        deviations = np.abs(wanted - projected @ gram).max(axis=1, initial=0)
        return projected @ x.T, deviations <= ESTIMABLE

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


def _pseudo_inverse(gram: np.ndarray) -> np.ndarray:
    """Return the pseudo-inverse of a symmetric matrix."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > np.finfo(float).eps * len(values) * values.max(initial=0.0)
    return np.asarray((vectors[:, kept] / values[kept]) @ vectors[:, kept].T)
