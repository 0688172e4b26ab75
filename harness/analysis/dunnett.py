"""Dunnett's test of several differences from one baseline, two-sided, in a balanced design.

The statistics of a family are t_j = (mean_j - mean_0) / se with a common estimate of the variance.
Their correlation is 1/2, because all differences share the baseline (Dunnett 1955, "A multiple
comparison procedure for comparing several treatments with a control"). With normal Z_0, Z_j and an
independent estimate s of the unit standard deviation, t_j = (Z_j - Z_0) / (sqrt(2) s), so that the
distribution of the largest |t_j| is an integral over Z_0 and s. Gauss-Legendre sums give it within
1e-9.
All functions are pure functions of numbers.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

Z_MAX = 8.5  # a normal value is beyond it with probability 2e-17
NODES_Z = 96
NODES_S = 64
TINY = 1e-15  # probability of the tails of s that are left out
LARGE_DF = 10_000  # degrees of freedom from which the distribution is that of infinitely many
CRITICAL_TOLERANCE = 1e-10
AT_ONCE = 64  # statistics whose integrand is in memory at once, 3 MB each


def pvalues(t: Sequence[float] | FloatArray, n_comparisons: int, df: int) -> FloatArray:
    """Return, for each statistic, P(max |T_j| >= |t|) over `n_comparisons` with `df`, (n_t,).

    This is the single-step adjusted p-value. With one comparison it is Student's.
    """
    sizes = np.abs(np.asarray(t, dtype=float))
    if n_comparisons == 1:
        from scipy.special import stdtr

        return np.asarray(2 * stdtr(df, -sizes), dtype=float)
    blocks = [
        _largest_exceeds(sizes[start : start + AT_ONCE], n_comparisons, min(df, LARGE_DF))
        for start in range(0, len(sizes), AT_ONCE)
    ]
    return np.concatenate(blocks) if blocks else sizes


def step_down_pvalues(t: Sequence[float] | FloatArray, df: int, n_more: int = 0) -> FloatArray:
    """Return the adjusted p-values of the step-down test of a family (n_t,), in the order of `t`.

    The largest |t| is compared with the maximum of all, the next with that of the others, and so
    on; the adjusted p-values do not decrease (Naik 1975; Dunnett & Tamhane 1991). `n_more` further
    differences of the family are not rejected.
    """
    sizes = np.abs(np.asarray(t, dtype=float))
    adjusted = np.empty(len(sizes))
    highest = 0.0
    for position, i in enumerate(np.argsort(-sizes, kind="stable")):
        p = float(pvalues([sizes[i]], len(sizes) + n_more - position, df)[0])
        highest = max(highest, p)
        adjusted[i] = highest
    return adjusted


@lru_cache(maxsize=10_000)
def critical_value(n_comparisons: int, df: int, alpha: float) -> float:
    """Return c with P(max |T_j| > c) = alpha: mean_j - mean_0 ± c se are simultaneous intervals."""
    from scipy.special import stdtrit

    # between Student's quantiles without and with Bonferroni's correction
    low = float(stdtrit(df, 1 - alpha / 2))
    if n_comparisons == 1:
        return low
    high = float(stdtrit(df, 1 - alpha / (2 * n_comparisons)))
    log_low, log_high = (_log_ratio(size, n_comparisons, df, alpha) for size in (low, high))
    # secants of log p, which is nearly straight, with Illinois's halving if an end stays
    side = 0
    while high - low > CRITICAL_TOLERANCE * high:
        part = log_low / (log_low - log_high) if log_low > 0 > log_high else 0.5
        middle = low + (high - low) * part
        log_middle = _log_ratio(middle, n_comparisons, df, alpha)
        if abs(log_middle) < CRITICAL_TOLERANCE:
            return middle
        if log_middle > 0:
            low = middle
            log_low = log_middle
            log_high = log_high / 2 if side > 0 else log_high
            side = 1
        else:
            high = middle
            log_high = log_middle
            log_low = log_low / 2 if side < 0 else log_low
            side = -1
    return (low + high) / 2


def _log_ratio(size: float, n_comparisons: int, df: int, alpha: float) -> float:
    p = float(pvalues([size], n_comparisons, df)[0])
    return math.log(max(p, TINY) / alpha)


def _largest_exceeds(sizes: FloatArray, n_comparisons: int, df: int) -> FloatArray:
    from scipy.special import ndtr

    z, density_z = _normal_nodes()
    s, density_s = _chi_nodes(df)
    center = math.sqrt(2) * sizes[:, None, None] * s[:, None]  # (n_t, NODES_S, 1)
    all_below = (ndtr(z + center) - ndtr(z - center)) ** n_comparisons
    below = np.asarray(np.einsum("tsz,s,z->t", all_below, density_s, density_z), dtype=float)
    p: FloatArray = np.clip(1 - below, 0.0, 1.0)
    return p


@lru_cache
def _normal_nodes() -> tuple[FloatArray, FloatArray]:
    """Return values of a normal variable and their probabilities, each (NODES_Z,)."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES_Z)
    z = Z_MAX * nodes
    return z, Z_MAX * weights * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


@lru_cache(maxsize=1000)
def _chi_nodes(df: int) -> tuple[FloatArray, FloatArray]:
    """Return values of sqrt(chi2_df / df) and their probabilities, each (NODES_S,)."""
    from scipy.special import gammainccinv, gammaincinv

    low = math.sqrt(2 * float(gammaincinv(df / 2, TINY)) / df)
    high = math.sqrt(2 * float(gammainccinv(df / 2, TINY)) / df)
    nodes, weights = np.polynomial.legendre.leggauss(NODES_S)
    s = (high + low) / 2 + (high - low) / 2 * nodes
    log_density = (
        math.log(2)
        + df / 2 * math.log(df / 2)
        - math.lgamma(df / 2)
        + (df - 1) * np.log(s)
        - df * s**2 / 2
    )
    return s, np.exp(log_density) * weights * (high - low) / 2
