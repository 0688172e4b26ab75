"""Thresholds that a mean difference must exceed for a verdict, as a distribution over the noise.

All are for paired differences with a standard deviation of 1. From 3 seeds on, an entry differs by
the rule of two keys if its mean difference exceeds Dunnett's critical value times the largest of
three standard errors (its own, the pooled one and the mean over entries), and its own t interval
excludes 0. With 2 seeds, or if the baseline is noisier than the others, it is Holm's test of its
own t statistic.

With normal noise the mean difference is independent of the three variances, and these depend on
four independent variables only (see `_variances`). A lattice of these four represents their
distribution. It is the same in every call, without random numbers.

The critical value is that of the first step. The lower one of an entry after another one has been
rejected falsely is not counted.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.analysis import dunnett
from harness.analysis.significance import ALPHA, BASELINE_NOISE_P, TWO_KEYS_FROM

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Rule = Literal["two keys", "Holm"]

N_POINTS = 2048  # of the lattice
N_NODES = 64  # thresholds that represent the lattice
# A row of Kronecker's lattice in 4 dimensions: powers of the root of x**5 = x + 1 (Roberts 2018).
LATTICE_STEP = 1.1673039782614187


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of a family in standard errors of a mean difference, each (N_NODES,).

    `different`: values that the mean difference must exceed. `equivalent`: values by which it must
    be within the margin.
    """

    different: FloatArray
    equivalent: FloatArray


@dataclass(frozen=True)
class _Variances:
    """Variances of paired differences in a family, and whether it falls back, each (N_POINTS,).

    `own` is that of an entry, `mean` that over entries, `pooled` is 2 s2.
    """

    own: FloatArray
    mean: FloatArray
    pooled: FloatArray
    falls_back: BoolArray


@lru_cache(maxsize=4096)
def thresholds(
    n_seeds: int, n_comparisons: int, alpha: float, rule: Rule = "two keys"
) -> Thresholds:
    """Return the thresholds of a family with at least 2 seeds at the familywise level `alpha`.

    The entry's own interval is that of 95 % at every level.
    """
    from scipy.special import stdtrit

    df = n_seeds - 1
    holm = float(stdtrit(df, 1 - alpha / 2 / n_comparisons))
    holm_equivalent = float(stdtrit(df, 1 - alpha / n_comparisons))
    if rule == "Holm" or n_seeds < TWO_KEYS_FROM or n_comparisons == 1:
        own = np.sqrt(chi_squared(df, lattice()[0]) / df)
        return Thresholds(_nodes(holm * own), _nodes(holm_equivalent * own))
    variances = _variances(n_seeds, n_comparisons)
    own = np.sqrt(variances.own)
    largest = np.maximum(np.maximum(variances.mean, variances.pooled), variances.own)
    critical = dunnett.critical_value(n_comparisons, n_comparisons * df, alpha)
    pooled_t = float(stdtrit(n_comparisons * df, 1 - alpha / n_comparisons))
    different = np.maximum(critical * np.sqrt(largest), float(stdtrit(df, 1 - ALPHA / 2)) * own)
    equivalent = np.maximum(pooled_t * np.sqrt(largest), float(stdtrit(df, 1 - ALPHA)) * own)
    return Thresholds(
        _nodes(np.where(variances.falls_back, holm * own, different)),
        _nodes(np.where(variances.falls_back, holm_equivalent * own, equivalent)),
    )


def _variances(n_seeds: int, n_comparisons: int) -> _Variances:
    """Return the variances of a family of at least two comparisons at the points of the lattice.

    With m comparisons, D_1 = y_1 - y_0 and D = (mean of the m - 1 others) - y_0 as vectors over
    n - 1 degrees of freedom, all sums of squares follow from |D_1|, the part of D along D_1
    (normal), its other part (chi), and the variation among the m - 1 others (chi).
    """
    from scipy.special import fdtrc, ndtri

    m = n_comparisons
    df = n_seeds - 1
    u = lattice()
    rest = (m + 1) / (4 * (m - 1))  # variance of D given D_1
    own = chi_squared(df, u[0])
    along = np.sqrt(own) / 2 + math.sqrt(rest) * ndtri(u[1])
    others = along**2 + rest * chi_squared(df - 1, u[2])
    among = chi_squared((m - 2) * df, u[3]) / 2 if m > 2 else np.zeros_like(own)
    sum_of_squares = own + (m - 1) * others + among
    square_of_sum = own + 2 * (m - 1) * np.sqrt(own) * along + (m - 1) ** 2 * others
    residual = sum_of_squares - square_of_sum / (m + 1)
    of_baseline = square_of_sum / (m * (m + 1))
    of_others = (sum_of_squares - square_of_sum / m) / (m - 1)
    return _Variances(
        own=own / df,
        mean=sum_of_squares / (m * df),
        pooled=2 * residual / (m * df),
        falls_back=fdtrc(df, (m - 1) * df, of_baseline / of_others) < BASELINE_NOISE_P,
    )


@lru_cache(maxsize=1)
def lattice() -> FloatArray:
    """Return points that fill the unit cube evenly, (4, N_POINTS)."""
    steps = LATTICE_STEP ** -np.arange(1.0, 5.0)
    points = (0.5 + steps[:, None] * np.arange(1, N_POINTS + 1)) % 1
    return np.asarray(np.clip(points, 1e-9, 1 - 1e-9))


def chi_squared(df: int, probability: FloatArray) -> FloatArray:
    """Return the values of a chi-squared variable that are exceeded with a probability."""
    from scipy.special import chdtri

    return np.asarray(chdtri(df, probability), dtype=float)


def _nodes(values: FloatArray) -> FloatArray:
    """Return the means of `N_NODES` equal parts of the values in their order."""
    return np.asarray(np.sort(values).reshape(N_NODES, -1).mean(axis=1))
