"""Tests of one difference that is paired by seed, and adjustments for several tests.

All functions are pure functions of numbers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.results.records.study_summary import VerdictName

Key = TypeVar("Key")
FloatArray = NDArray[np.float64]

ALPHA = 0.05  # familywise error rate
POWER = 0.8  # power at which a number of seeds is stated
MAX_SEEDS = 10_000  # larger numbers of seeds are not stated
ROUNDING = 1e-12  # relative: differences that vary by less are constant


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


def t_half_widths(groups: Sequence[FloatArray], alpha: float) -> FloatArray:
    """Return half of the t interval of each group's mean with the confidence 1 - alpha."""
    from scipy.special import stdtrit

    return np.array(
        [
            stdtrit(len(found) - 1, 1 - alpha / 2) * found.std(ddof=1) / math.sqrt(len(found))
            for found in groups
        ],
        dtype=float,
    )


def is_constant(values: np.ndarray) -> bool:
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


# -- power and number of seeds ---------------------------------------------------------------------


def paired_t_power(n: int, difference: float, sd: float, alpha: float) -> float:
    """Return the power of the two-sided paired t test with n seeds.

    `difference` is the true mean difference, `sd` the standard deviation of single differences.
    """
    from scipy.special import stdtrit

    shift = abs(difference) / sd * math.sqrt(n)
    critical = float(stdtrit(n - 1, 1 - alpha / 2))
    return (
        1 - _noncentral_t_cdf(n - 1, shift, critical) + _noncentral_t_cdf(n - 1, shift, -critical)
    )


def tost_power(n: int, difference: float, sd: float, margin: float, alpha: float) -> float:
    """Return the power of the two one-sided tests against `margin` with n seeds (Phillips 1990)."""
    from scipy.special import stdtrit

    se = sd / math.sqrt(n)
    critical = float(stdtrit(n - 1, 1 - alpha))
    upper = _noncentral_t_cdf(n - 1, (difference - margin) / se, -critical)
    return max(0.0, upper - _noncentral_t_cdf(n - 1, (difference + margin) / se, critical))


def _noncentral_t_cdf(df: int, shift: float, t: float) -> float:
    """Return the noncentral t distribution's CDF, or its normal approximation if that is NaN."""
    from scipy.special import nctdtr, ndtr

    probability = float(nctdtr(df, shift, t))
    return probability if math.isfinite(probability) else float(ndtr(t - shift))


def required_seeds(power: Callable[[int], float]) -> int | None:
    """Return the smallest number of seeds with power `POWER`, at least 2; None beyond `MAX_SEEDS`.

    `power` maps a number of seeds to the power and must increase with it.
    """
    if power(MAX_SEEDS) < POWER:
        return None
    low = high = 2
    while power(high) < POWER:
        low = high + 1
        high = min(2 * high, MAX_SEEDS)
    while low < high:
        middle = (low + high) // 2
        if power(middle) >= POWER:
            high = middle
        else:
            low = middle + 1
    return high


def seeds_to_resolve(values: np.ndarray, margin: float | None, n_tests: int) -> int | None:
    """Return the number of seeds that resolves a difference if its mean and noise are accurate.

    Resolved means different from 0 or within the margin, whichever needs fewer seeds. Uses
    alpha / family size (Bonferroni), which overestimates the number slightly.
    """
    alpha = ALPHA / n_tests
    difference = float(values.mean())
    sd = float(values.std(ddof=1))
    powers: list[Callable[[int], float]] = [
        partial(paired_t_power, difference=difference, sd=sd, alpha=alpha)
    ]
    if margin is not None and abs(difference) < margin:
        powers.append(partial(tost_power, difference=difference, sd=sd, margin=margin, alpha=alpha))
    numbers = [n for n in map(required_seeds, powers) if n is not None]
    return max(min(numbers), len(values) + 1) if numbers else None


def minimum_detectable_effect(n: int, sd: float, alpha: float) -> float:
    """Return the smallest true difference that n seeds detect with `POWER`; inf for one seed."""
    if n < 2:
        return math.inf
    low = 0.0
    high = sd
    while paired_t_power(n, high, sd, alpha) < POWER:
        low = high
        high = 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if paired_t_power(n, middle, sd, alpha) >= POWER:
            high = middle
        else:
            low = middle
    return high
