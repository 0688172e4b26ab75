"""The matrix as a factorial design: what each axis does by itself, and whether two axes do more together.

A linear model with the seed as a block: value = seed + what each level does + what each pair of levels does beyond that
+ noise (Montgomery 2017, chapters 4 and 5). What three axes do together counts as noise. Pure functions of numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from harness.analysis.intervals import TAIL, Bounds

Levels = Mapping[str, Sequence[str]]  # of each axis, the baseline's first
Cell = tuple[str, ...]  # a level of each axis, in the axes' order
ROUNDING = 1e-9  # of nats, or of logarithms


@dataclass(frozen=True)
class Effect:
    """What `levels` change against the baseline's levels on their axes, in the mean over all levels of other axes.

    Of one axis it is a main effect. Of two it is the interaction: what both levels do beyond the sum of what each does.
    `ci95` and `p` are None where nothing tells of the noise; all is None where the runs cannot tell it from others.
    `se` is the standard error of the estimate.
    """

    levels: dict[str, str]
    estimate: float | None
    se: float | None
    ci95: Bounds | None
    p: float | None


@dataclass(frozen=True)
class Effects:
    """All effects, and what they rest on; `missing` are cells of the matrix that have no runs."""

    main: list[Effect]
    interactions: list[Effect]
    n_runs: int
    degrees_of_freedom: int
    noise: float | None  # standard deviation of a run, seeds' own part taken off
    missing: list[Cell]


def estimate(values: Mapping[Cell, Mapping[int, float]], levels: Levels) -> Effects:
    """Fit the values of each cell by seed, and read the effects off the fit; cells and seeds may be missing."""
    axes = {axis: list(names) for axis, names in levels.items() if len(names) > 1}
    places = [i for i, axis in enumerate(levels) if axis in axes]
    observed = [
        (tuple(cell[i] for i in places), seed, y)
        for cell, by_seed in values.items()
        for seed, y in by_seed.items()
    ]
    seeds = sorted({seed for _, seed, _ in observed})
    design = _Design(axes)
    x = np.zeros((len(observed), design.n_columns + len(seeds)))
    x[:, : design.n_columns] = design.rows([cell for cell, *_ in observed])
    x[range(len(observed)), [design.n_columns + seeds.index(seed) for _, seed, _ in observed]] = 1
    y = np.array([value for *_, value in observed])
    inverse, rank = _inverse(x.T @ x)
    known = inverse @ x.T @ x  # a contrast that this leaves as it is can be told from the runs
    fitted = inverse @ x.T @ y
    df = len(y) - rank
    variance = float(((y - x @ fitted) ** 2).sum() / df) if df > 0 else None

    contrasts = np.hstack([design.contrasts(), np.zeros((design.n_columns, len(seeds)))])
    estimates = contrasts @ fitted
    unknown = (
        np.abs(contrasts - contrasts @ known).max(axis=1, initial=0) > 1e-6
    )  # other effects would explain the same runs
    variances = np.einsum("ij,jk,ik->i", contrasts, inverse, contrasts, optimize=True)

    def effect(*levels: tuple[str, str]) -> Effect:
        i = design.place[levels]
        if not len(y) or unknown[i]:
            return Effect(dict(levels), None, None, None, None)
        value = float(estimates[i])
        if variance is None:
            return Effect(dict(levels), value, None, None, None)
        se = float(np.sqrt(variance * variances[i]))
        return Effect(dict(levels), value, se, *_interval(value, se, df))

    seen = {cell for cell, *_ in observed}
    return Effects(
        main=[effect((axis, name)) for axis, names in axes.items() for name in names[1:]],
        interactions=[
            effect((a, one), (b, other))
            for a, b in combinations(axes, 2)
            for one, other in product(axes[a][1:], axes[b][1:])
        ],
        n_runs=len(y),
        degrees_of_freedom=df,
        noise=None if variance is None else float(np.sqrt(variance)),
        missing=[cell for cell in product(*axes.values()) if cell not in seen],
    )


def _inverse(gram: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the pseudo-inverse of a symmetric matrix, and its rank."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > np.finfo(float).eps * len(values) * values.max(initial=0.0)
    return (vectors[:, kept] / values[kept]) @ vectors[:, kept].T, int(kept.sum())


def _interval(value: float, se: float, df: int) -> tuple[Bounds, float]:
    from scipy.special import stdtr, stdtrit

    if se <= ROUNDING:  # there is no noise
        return (value, value), 0.0 if abs(value) > ROUNDING else 1.0
    half = float(stdtrit(df, 1 - TAIL)) * se
    return (value - half, value + half), 2 * float(stdtr(df, -abs(value) / se))


class _Design:
    """Columns of the model: 1 for each level beyond the baseline's, and for each pair of them on two axes."""

    def __init__(self, axes: Levels) -> None:
        self.axes = axes
        self.singles = [(axis, name) for axis, names in axes.items() for name in names[1:]]
        self.pairs = [(a, b) for a, b in combinations(self.singles, 2) if a[0] != b[0]]
        self.place = {
            term: i for i, term in enumerate([*((level,) for level in self.singles), *self.pairs])
        }
        self.n_columns = len(self.place)

    def rows(self, cells: Sequence[Cell]) -> np.ndarray:
        """Return the columns of each cell, (n_cells, n_columns)."""
        has = np.array(
            [
                [
                    cell[i] == name
                    for i, names in enumerate(self.axes.values())
                    for name in names[1:]
                ]
                for cell in cells
            ],
            dtype=float,
        ).reshape(len(cells), len(self.singles))
        a, b = ([self.place[pair[side],] for pair in self.pairs] for side in (0, 1))
        return np.hstack([has, has[:, a] * has[:, b]])

    def contrasts(self) -> np.ndarray:
        """Return what tells each term from the baseline's levels, in the mean over all levels of the other axes.

        Of one level, that is its own column and, for each level of another axis, its share of the pair's column; of
        two, only what they do beyond their sum. A row for each term, in the order of the columns.
        """
        found = np.eye(self.n_columns)
        for pair in self.pairs:
            for level, (axis, _) in (pair, reversed(pair)):
                found[self.place[level,], self.place[pair]] = 1 / len(self.axes[axis])
        return found
