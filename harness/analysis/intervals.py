"""Estimates with 95 % intervals: pure functions of numbers, each small enough to check by hand."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from harness.results.records.estimates import Bounds, Mean, Median, Ratio

RESAMPLES = 1000
MAX_MIXTURE_VALUES = 500_000  # values of mixed distributions in memory at once
TAIL = 0.025  # probability on each side of a 95 % interval


def mean(values: Sequence[float]) -> Mean:
    """Return the mean and its 95 % interval by Student's t, with n - 1 degrees of freedom."""
    center = float(np.mean(values))
    n = len(values)
    if n < 2:
        return Mean(mean=center, ci95=None, n=n)
    from scipy.special import stdtrit  # imported here because scipy is slow to import

    half = float(stdtrit(n - 1, 1 - TAIL) * np.std(values, ddof=1) / np.sqrt(n))
    return Mean(mean=center, ci95=(center - half, center + half), n=n)


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
    """Return the median of all groups' samples and its bootstrap interval.

    A resample draws groups (seeds) first and then samples (steps) from these groups. The interval
    therefore includes the variation between runs, not only the variation between steps.
    """
    medians = _resampled_medians(groups, np.random.default_rng(1))
    center = float(np.median(np.concatenate(groups)))
    return Median(median=center, ci95=_percentiles(medians))


def rate(amount: float, time: Median) -> Median:
    """Return the amount per unit of time, given the time that `amount` takes with its interval."""
    low, high = time.ci95
    return Median(median=amount / time.median, ci95=(amount / high, amount / low))


def ratio_of_medians(numerator: Sequence[np.ndarray], denominator: Sequence[np.ndarray]) -> Ratio:
    """Return the ratio of two medians; the i-th groups of both have one seed, drawn together."""
    rng = np.random.default_rng(1)
    ratios = _resampled_medians(numerator, rng) / _resampled_medians(denominator, rng)
    ratio = np.median(np.concatenate(numerator)) / np.median(np.concatenate(denominator))
    return Ratio(ratio=float(ratio), ci95=_percentiles(ratios))


@lru_cache
def _resampled_groups(n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Return distinct weights of groups, (n_distinct, n_groups), and each resample's row of them.

    Every call returns the same weights, so that groups of the same seed are drawn together.
    """
    rng = np.random.default_rng(0)
    counts = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=RESAMPLES)
    distinct, row_of_resample = np.unique(counts, axis=0, return_inverse=True)
    return distinct / n_groups, row_of_resample.reshape(-1)


def _resampled_medians(groups: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Return the median of each resample, (RESAMPLES,), without drawing its samples one by one.

    The median of n draws from a distribution is its quantile at the median of n uniform draws. The
    order statistics of uniform draws are beta distributed, so one or two draws per resample
    suffice.
    """
    pooled = np.concatenate(groups)
    order = np.argsort(pooled)
    values = pooled[order]
    n = len(values)
    sizes = np.array([len(group) for group in groups])
    group_of_value = np.repeat(np.arange(len(groups)), sizes)[order]

    k = (n + 1) // 2
    low = rng.beta(k, n + 1 - k, RESAMPLES)
    high = low if n % 2 else low + (1 - low) * rng.beta(1, n - k, RESAMPLES)

    in_group = group_of_value == np.arange(len(groups))[:, None]
    cdfs = np.cumsum(in_group, axis=1) / sizes[:, None]  # of each group, (n_groups, n)
    # no mixture of the groups has its median outside of first to last
    first = int(np.searchsorted(cdfs.max(axis=0), low.min()))
    last = min(int(np.searchsorted(cdfs.min(axis=0), high.max())), n - 1)
    cdfs = cdfs[:, first : last + 1]

    weights, row_of_resample = _resampled_groups(len(groups))
    medians = np.empty(RESAMPLES)
    rows_at_once = max(1, MAX_MIXTURE_VALUES // cdfs.shape[1])
    for start in range(0, len(weights), rows_at_once):
        mixed = weights[start : start + rows_at_once] @ cdfs  # each row rises from 0 to 1
        resamples = (row_of_resample >= start) & (row_of_resample < start + len(mixed))
        row = row_of_resample[resamples] - start
        # one search in all rows: row i is shifted by 2 i, so that the rows do not overlap
        stacked = (mixed + 2 * np.arange(len(mixed))[:, None]).reshape(-1)
        offset = row * mixed.shape[1]
        at_low = np.searchsorted(stacked, low[resamples] + 2 * row) - offset
        at_high = np.searchsorted(stacked, high[resamples] + 2 * row) - offset
        lower = values[np.minimum(first + at_low, n - 1)]
        upper = values[np.minimum(first + at_high, n - 1)]
        medians[resamples] = (lower + upper) / 2
    return medians


def _percentiles(samples: np.ndarray) -> Bounds:
    low, high = np.quantile(samples, (TAIL, 1 - TAIL))
    return float(low), float(high)


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
