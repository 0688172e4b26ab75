"""The matrix as a factorial design: what each axis does by itself, and whether two axes do more together.

A linear model with the seed as a block: value = seed + what each level does + what each pair of levels does beyond that
+ noise (Montgomery 2017, chapters 4 and 5). What three axes do together counts as noise. Pure functions of numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from harness.report.statistics import TAIL, Bounds

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
        (tuple(cell[i] for i in places), seed, y) for cell, by_seed in values.items() for seed, y in by_seed.items()
    ]
    seeds = sorted({seed for _, seed, _ in observed})
    design = _Design(axes)
    x = np.zeros((len(observed), design.n_columns + len(seeds)))
    x[:, : design.n_columns] = design.rows([cell for cell, *_ in observed])
    x[range(len(observed)), [design.n_columns + seeds.index(seed) for _, seed, _ in observed]] = 1
    y = np.array([value for *_, value in observed])
    inverse = np.linalg.pinv(x.T @ x, hermitian=True)
    known = inverse @ x.T @ x  # a contrast that this leaves as it is can be told from the runs
    fitted = inverse @ x.T @ y
    df = len(y) - int(np.linalg.matrix_rank(x)) if len(y) else 0
    variance = float(((y - x @ fitted) ** 2).sum() / df) if df > 0 else None

    def effect(of: dict[str, str]) -> Effect:
        contrast = np.concatenate([design.contrast(of), np.zeros(len(seeds))])
        if not len(y) or np.abs(contrast - contrast @ known).max() > 1e-6:
            return Effect(of, None, None, None, None)  # other effects would explain the same runs
        value = float(contrast @ fitted)
        if variance is None:
            return Effect(of, value, None, None, None)
        se = float(np.sqrt(variance * (contrast @ inverse @ contrast)))
        return Effect(of, value, se, *_interval(value, se, df))

    seen = {cell for cell, *_ in observed}
    return Effects(
        main=[effect({axis: name}) for axis, names in axes.items() for name in names[1:]],
        interactions=[
            effect({a: one, b: other})
            for a, b in combinations(axes, 2)
            for one, other in product(axes[a][1:], axes[b][1:])
        ],
        n_runs=len(y),
        degrees_of_freedom=df,
        noise=None if variance is None else float(np.sqrt(variance)),
        missing=[cell for cell in product(*axes.values()) if cell not in seen],
    )


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
        self.n_columns = len(self.singles) + len(self.pairs)

    def rows(self, cells: Sequence[Cell]) -> np.ndarray:
        """Return the columns of each cell, (n_cells, n_columns)."""
        has = np.array([[cell[i] == name for i, names in enumerate(self.axes.values()) for name in names[1:]]
                        for cell in cells], dtype=float).reshape(len(cells), len(self.singles))  # fmt: skip
        place = {level: i for i, level in enumerate(self.singles)}
        a, b = ([place[pair[side]] for pair in self.pairs] for side in (0, 1))
        return np.hstack([has, has[:, a] * has[:, b]])

    def contrast(self, of: Mapping[str, str]) -> np.ndarray:
        """Return what tells `of` from the baseline's levels, in the mean over all levels of the other axes.

        Of one level, that is its own column and, for each level of another axis, that share of the pair's column; of
        two, only what they do beyond their sum.
        """
        levels = set(of.items())
        single = [float({level} == levels) for level in self.singles]
        pairs = []
        for pair in self.pairs:
            others = set(pair) - levels
            share = np.prod([1 / len(self.axes[axis]) for axis, _ in others])
            pairs.append(float(share) if len(others) == 2 - len(levels) else 0.0)
        return np.array(single + pairs)
