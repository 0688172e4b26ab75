"""Estimates with 95 % intervals: pure functions of numbers, each small enough to check by hand."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from harness.analysis.welch import welch
from harness.results.records.estimates import Bounds, Mean, Median, Ratio

TAIL = 0.025  # probability on each side of a 95 % interval


def mean(values: Sequence[float]) -> Mean:
    """Return the mean and its 95 % interval by Student's t, with n - 1 degrees of freedom."""
    center = float(np.mean(values))
    n = len(values)
    if n < 2:
        return Mean(mean=center, ci95=None, n=n)
    half = t_half_width(values)
    return Mean(mean=center, ci95=(center - half, center + half), n=n)


def t_half_width(values: Sequence[float] | np.ndarray, alpha: float = 2 * TAIL) -> float:
    """Return half of the t interval of the mean of two or more values, of confidence 1 - alpha."""
    from scipy.special import stdtrit  # imported here because scipy is slow to import

    n = len(values)
    return float(stdtrit(n - 1, 1 - alpha / 2) * np.std(values, ddof=1) / math.sqrt(n))


def paired_differences(
    variant: Mapping[int, float], baseline: Mapping[int, float]
) -> dict[int, float]:
    """Return variant minus baseline for each seed (the keys) that both have, sorted by seed."""
    seeds = sorted(variant.keys() & baseline.keys())
    return {seed: variant[seed] - baseline[seed] for seed in seeds}


def mean_difference(variant: Mapping[int, float], baseline: Mapping[int, float]) -> Mean | None:
    """Return the mean difference over the seeds (the keys) that both have, None without any."""
    differences = paired_differences(variant, baseline)
    return mean(list(differences.values())) if differences else None


def median(groups: Sequence[np.ndarray]) -> Median:
    """Return the geometric mean of the groups' medians and its 95 % interval.

    A group has the samples (times of steps) of one seed. Its samples are not independent of each
    other, since all of them share what makes the run fast or slow. A group therefore gives one
    value, and the interval is Student's t of the logarithms over groups: None for a single group.
    """
    center, bounds = _geometric_mean([float(np.median(group)) for group in groups])
    return Median(median=center, ci95=bounds)


def rate(amount: float, time: Median) -> Median:
    """Return the amount per unit of time, given the time that `amount` takes with its interval."""
    bounds = None
    if time.ci95 is not None:
        low, high = time.ci95
        bounds = (amount / high, amount / low)
    return Median(median=amount / time.median, ci95=bounds)


def ratio_of_medians(numerator: Sequence[np.ndarray], denominator: Sequence[np.ndarray]) -> Ratio:
    """Return the geometric mean of the groups' ratios of medians; i-th groups have one seed.

    The interval is Student's t of the logarithms over seeds: None for a single seed.
    """
    pairs = zip(numerator, denominator, strict=True)
    ratio, bounds = _geometric_mean([float(np.median(a) / np.median(b)) for a, b in pairs])
    return Ratio(ratio=ratio, ci95=bounds)


def ratio_of_unpaired_medians(
    numerator: Sequence[np.ndarray], denominator: Sequence[np.ndarray]
) -> Ratio:
    """Return the ratio of the geometric means of two samples of groups without common seeds.

    The interval is that of Welch's test of the logarithms (see `welch`): None if a side has a
    single group, or if no side varies.
    """
    over = [math.log(np.median(group)) for group in numerator]
    under = [math.log(np.median(group)) for group in denominator]
    ratio = math.exp(float(np.mean(over) - np.mean(under)))
    difference = welch(over, under)
    if difference is None:
        return Ratio(ratio=ratio, ci95=None)
    low, high = difference.interval()
    return Ratio(ratio=ratio, ci95=(math.exp(low), math.exp(high)))


def _geometric_mean(values: Sequence[float]) -> tuple[float, Bounds | None]:
    """Return the geometric mean and the t interval of the logarithms, None for a single value.

    Logarithms are relative to the first value, so that equal values give exactly this value.
    """
    first = values[0]
    logs = mean([math.log(value / first) for value in values])
    center = first * math.exp(logs.mean)
    if logs.ci95 is None:
        return center, None
    low, high = logs.ci95
    return center, (first * math.exp(low), first * math.exp(high))


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return which points (gain, cost) no other point beats (the Pareto front)."""

    def dominated(gain: float, cost: float) -> bool:
        return any(g >= gain and c <= cost and (g, c) != (gain, cost) for g, c in points)

    return [not dominated(gain, cost) for gain, cost in points]


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return the centred mean over `window` values (odd), over fewer near the ends."""
    kernel = np.ones(window)
    n_values = np.convolve(np.ones(len(values)), kernel, "same")
    return np.convolve(values, kernel, "same") / n_values
