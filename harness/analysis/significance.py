"""Tests of one difference that is paired by seed, and adjustments for several tests.

All functions are pure functions of numbers.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.results.records.comparisons import VerdictName

Key = TypeVar("Key")
FloatArray = NDArray[np.float64]

ALPHA = 0.05  # familywise error rate
TWO_KEYS_FROM = 3  # seeds
BASELINE_NOISE_P = 0.02  # of the F test, below which the baseline is noisier than the others
ROUNDING = 1e-12  # relative: values that vary by less are constant


def classify(
    difference: float,
    p: float,
    p_equivalent: float,
    lower_is_better: bool,
    alpha: float = ALPHA,
) -> VerdictName:
    """Return the verdict that the two adjusted p-values give at level `alpha`."""
    if p_equivalent < alpha:
        return "equivalent"
    if p >= alpha:
        return "unresolved"
    return "better" if (difference < 0) == lower_is_better else "worse"


def paired_t_pvalue(values: np.ndarray) -> float:
    """Return the two-sided p-value of Student's t test that the mean is 0."""
    if is_constant(values):
        return 1.0 if values[0] == 0 else 0.0
    return 2 * _t_cdf(-abs(values.mean()), values)


def tost_pvalue(values: np.ndarray, margin: float | None) -> float:
    """Return the larger p-value of the one-sided t tests against -margin and margin."""
    if is_constant(values):
        return 0.0 if abs(values[0]) < (margin or 0.0) or values[0] == 0 else 1.0
    return 1.0 if margin is None else _t_cdf(abs(values.mean()) - margin, values)


def _t_cdf(difference: float, values: np.ndarray) -> float:
    """Return the t distribution's CDF at `difference` over the standard error of the mean."""
    from scipy.special import stdtr

    return float(stdtr(len(values) - 1, difference / (values.std(ddof=1) / math.sqrt(len(values)))))


def is_constant(values: Sequence[float] | FloatArray) -> bool:
    """Return whether the values vary by rounding only, as those of bitwise equal losses do."""
    return bool(np.ptp(values) <= ROUNDING * np.abs(values).max())


def holm_adjust(p: Mapping[Key, float], n_more: int = 0) -> dict[Key, float]:
    """Return p-values adjusted to control the familywise error rate (Holm 1979).

    `n_more` further hypotheses of the family are not rejected.
    """
    order = sorted(p, key=lambda key: p[key])
    n = len(p) + n_more
    stepped = np.maximum.accumulate([(n - i) * p[key] for i, key in enumerate(order)])
    return {key: min(1.0, float(value)) for key, value in zip(order, stepped, strict=True)}


def benjamini_hochberg_adjust(p: Mapping[Key, float]) -> dict[Key, float]:
    """Return p-values adjusted to control the false discovery rate (Benjamini & Hochberg 1995).

    The same as `scipy.stats.false_discovery_control`, which takes a second to import.
    """
    order = sorted(p, key=lambda key: p[key], reverse=True)
    stepped = np.minimum.accumulate([len(p) / (len(p) - i) * p[key] for i, key in enumerate(order)])
    return {key: min(1.0, float(value)) for key, value in zip(order, stepped, strict=True)}


def effect_size(values: np.ndarray) -> float | None:
    """Return Hedges' g of paired differences; None if they are constant, or fewer than three."""
    df = len(values) - 1
    if is_constant(values) or df < 2:
        return None
    correction = math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2)) / math.sqrt(df / 2)
    return float(values.mean() / values.std(ddof=1)) * correction
