"""Verdicts: what differences that are paired by seed allow one to say, corrected for how many are asked at once.

A *test_family* is all that one table asks: every entry against the baseline, in one quantity. Pure functions of numbers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import numpy as np

from harness.analysis.intervals import Bounds, Mean, mean

Key = TypeVar("Key")
VerdictName = Literal["better", "worse", "equivalent", "unresolved"]

ALPHA = 0.05  # the chance of a false verdict in a whole test_family
POWER = 0.8  # with which a stated number of seeds would resolve a difference
BOOTSTRAP_FROM = 20  # seeds: below, BCa intervals of means hold the true one in 73 to 91 % of cases rather than 95 %
MAX_SEEDS = 10_000  # seeds, beyond which nobody goes


@dataclass(frozen=True)
class SignificanceResult:
    """One difference, variant minus baseline; None stands for what a single seed cannot tell.

    `p_holm` is corrected such that a test_family without any effect gives a false verdict in at most 5 % of cases (Holm
    1979), `p_bh` such that at most 5 % of what is found is false (Benjamini & Hochberg 1995); verdicts use Holm's.
    `p_equivalent_holm` is of two one-sided tests against the margin (Schuirmann 1987). `effect_size` is Hedges' g of
    the paired differences: their mean over their standard deviation, unbiased (Hedges 1981).
    """

    verdict: VerdictName | None
    difference: Mean
    bootstrap95: Bounds | None
    p: float | None
    p_holm: float | None
    p_bh: float | None
    p_equivalent_holm: float | None
    effect_size: float | None
    seeds_to_resolve: int | None


def test_family(
    differences: Mapping[str, Sequence[float]], margin: float | None, lower_is_better: bool = True
) -> dict[str, SignificanceResult]:
    """Judge each of a test_family of paired differences by seed; `margin` is how much makes no difference to the study.

    What lies within the margin for certain is `equivalent`, be it zero or not: the study has said that so little does
    not count. Without a margin only differences that are exactly 0 in every seed are equivalent.
    """
    several = {
        name: np.asarray(values, dtype=float)
        for name, values in differences.items()
        if len(values) > 1
    }
    p = {name: paired_t_pvalue(values) for name, values in several.items()}
    p_equivalent = {name: tost_pvalue(values, margin) for name, values in several.items()}
    p_holm, p_bh, p_equivalent_holm = (
        holm_adjust(p),
        benjamini_hochberg_adjust(p),
        holm_adjust(p_equivalent),
    )
    found = {}
    for name, values in differences.items():
        if name not in several:
            found[name] = SignificanceResult(
                None, mean(values), None, None, None, None, None, None, None
            )
            continue
        word = classify(mean(values).mean, p_holm[name], p_equivalent_holm[name], lower_is_better)
        found[name] = SignificanceResult(
            verdict=word,
            difference=mean(values),
            bootstrap95=bootstrap(several[name]),
            p=p[name],
            p_holm=p_holm[name],
            p_bh=p_bh[name],
            p_equivalent_holm=None if margin is None else p_equivalent_holm[name],
            effect_size=effect_size(several[name]),
            seeds_to_resolve=seeds_to_resolve(several[name], margin, len(several))
            if word == "unresolved"
            else None,
        )
    return found


def classify(
    difference: float, p: float, p_equivalent: float, lower_is_better: bool
) -> VerdictName:
    """Return what two p-values, corrected for all that is asked, say of a difference."""
    if p_equivalent < ALPHA:
        return "equivalent"
    if p >= ALPHA:
        return "unresolved"
    return "better" if (difference < 0) == lower_is_better else "worse"


def paired_t_pvalue(values: np.ndarray) -> float:
    """Return the two-sided p-value of Student's t test that the mean is 0; exact differences leave no doubt."""
    if _constant(values):
        return 1.0 if values[0] == 0 else 0.0
    return 2 * _below(-abs(values.mean()), values)


def tost_pvalue(values: np.ndarray, margin: float | None) -> float:
    """Return the larger p-value of two one-sided t tests that the mean lies above -margin and below margin."""
    if _constant(values):
        return 0.0 if abs(values[0]) < (margin or 0.0) or values[0] == 0 else 1.0
    return 1.0 if margin is None else _below(abs(values.mean()) - margin, values)


def _below(difference: float, values: np.ndarray) -> float:
    """Return the chance of a t statistic below that of a difference, if it is as noisy as these values."""
    from scipy.special import stdtr

    return float(stdtr(len(values) - 1, difference / (values.std(ddof=1) / math.sqrt(len(values)))))


def _constant(values: np.ndarray) -> bool:
    """Tell whether nothing but rounding is between the differences: memory, or losses that are bitwise equal."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def holm_adjust(p: Mapping[Key, float]) -> dict[Key, float]:
    """Return p-values such that the chance of any false one below a level is at most that level (Holm 1979)."""
    order = sorted(p, key=lambda key: p[key])
    stepped = np.maximum.accumulate([(len(p) - i) * p[key] for i, key in enumerate(order)])
    return {key: min(1.0, float(value)) for key, value in zip(order, stepped, strict=True)}


def benjamini_hochberg_adjust(p: Mapping[Key, float]) -> dict[Key, float]:
    """Return p-values such that of those below a level, at most that share is false (Benjamini & Hochberg 1995)."""
    order = sorted(p, key=lambda key: p[key], reverse=True)
    stepped = np.minimum.accumulate([len(p) / (len(p) - i) * p[key] for i, key in enumerate(order)])
    return {key: min(1.0, float(value)) for key, value in zip(order, stepped, strict=True)}


def bootstrap(values: np.ndarray) -> Bounds | None:
    """Return the bias-corrected and accelerated bootstrap interval of the mean (Efron 1987), where seeds allow one."""
    if len(values) < BOOTSTRAP_FROM or _constant(values):
        return None
    from scipy import stats

    interval = stats.bootstrap(
        (values,), np.mean, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(interval.low), float(interval.high)


def effect_size(values: np.ndarray) -> float | None:
    """Return Hedges' g of paired differences; None where they do not vary, and from two seeds, which give none."""
    df = len(values) - 1
    if _constant(values) or df < 2:
        return None
    unbiased = math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2)) / math.sqrt(df / 2)
    return float(values.mean() / values.std(ddof=1)) * unbiased


# -- how many seeds --------------------------------------------------------------------------------------------------


def paired_t_power(n: int, difference: float, sd: float, alpha: float) -> float:
    """Return the chance that n paired seeds find a true mean difference, two-sided; `sd` is of single differences."""
    from scipy.special import stdtrit

    shift, critical = abs(difference) / sd * math.sqrt(n), float(stdtrit(n - 1, 1 - alpha / 2))
    return 1 - _noncentral(n - 1, shift, critical) + _noncentral(n - 1, shift, -critical)


def tost_power(n: int, difference: float, sd: float, margin: float, alpha: float) -> float:
    """Return the chance that n paired seeds show a true mean difference to lie within the margin (Phillips 1990)."""
    from scipy.special import stdtrit

    se, critical = sd / math.sqrt(n), float(stdtrit(n - 1, 1 - alpha))
    below = _noncentral(n - 1, (difference - margin) / se, -critical)
    return max(0.0, below - _noncentral(n - 1, (difference + margin) / se, critical))


def _noncentral(df: int, shift: float, t: float) -> float:
    """Return the chance of a noncentral t statistic below `t`, by the normal distribution where scipy gives none."""
    from scipy.special import nctdtr, ndtr

    chance = float(nctdtr(df, shift, t))
    return chance if math.isfinite(chance) else float(ndtr(t - shift))


def required_seeds(power: Callable[[int], float]) -> int | None:
    """Return the fewest seeds that reach `POWER`, at least 2; None beyond `MAX_SEEDS`. More seeds have more power."""
    if power(MAX_SEEDS) < POWER:
        return None
    low, high = 2, 2
    while power(high) < POWER:
        low, high = high + 1, min(2 * high, MAX_SEEDS)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle + 1, high)
    return high


def seeds_to_resolve(values: np.ndarray, margin: float | None, n_asked: int) -> int | None:
    """Return how many seeds would resolve a difference if it were as large and as noisy as seen so far.

    Either way of resolving it counts: that it is not 0, or that it lies within the margin. The share of the error that
    each of a test_family may make is taken for the smallest of Holm's, so that the number is rather too large.
    """
    alpha, difference, sd = ALPHA / n_asked, float(values.mean()), float(values.std(ddof=1))
    ways: list[Callable[[int], float]] = [
        partial(paired_t_power, difference=difference, sd=sd, alpha=alpha)
    ]
    if margin is not None and abs(difference) < margin:
        ways.append(partial(tost_power, difference=difference, sd=sd, margin=margin, alpha=alpha))
    found = [n for n in map(required_seeds, ways) if n is not None]
    return max(min(found), len(values) + 1) if found else None


def minimum_detectable_effect(n: int, sd: float, alpha: float) -> float:
    """Return the smallest true difference that n paired seeds find with `POWER`; infinite for a single seed."""
    if n < 2:
        return math.inf
    low, high = 0.0, sd
    while paired_t_power(n, high, sd, alpha) < POWER:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (low, middle) if paired_t_power(n, middle, sd, alpha) >= POWER else (middle, high)
        )
    return high
