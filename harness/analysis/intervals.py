"""The report's statistics: pure functions of numbers, each small enough to check by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES = 1000
AT_ONCE = 500_000  # numbers that are worked on together
TAIL = 0.025  # on each side of a 95 % interval

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Mean:
    """The mean of `n` values with its t interval; none from a single value, which tells nothing of the spread."""

    mean: float
    ci95: Bounds | None
    n: int


@dataclass(frozen=True)
class Median:
    """The median of pooled samples with its bootstrap percentile interval."""

    median: float
    ci95: Bounds


@dataclass(frozen=True)
class Ratio:
    """The ratio of two medians with its bootstrap percentile interval."""

    ratio: float
    ci95: Bounds


@dataclass(frozen=True)
class Paired:
    """Differences between two entries, seed by seed; `n_unpaired` counts the seeds that only one of the two has."""

    seeds: tuple[int, ...]
    difference: Mean
    n_unpaired: int


def mean(values: Sequence[float]) -> Mean:
    """Return the mean and its two-sided 95 % interval by Student's t, with n - 1 degrees of freedom."""
    center, n = float(np.mean(values)), len(values)
    if n < 2:
        return Mean(center, None, n)
    from scipy.special import stdtrit  # slow to import, and not needed to import the report

    half = float(stdtrit(n - 1, 1 - TAIL) * np.std(values, ddof=1) / np.sqrt(n))
    return Mean(center, (center - half, center + half), n)


def paired(variant: Mapping[int, float], baseline: Mapping[int, float]) -> Paired | None:
    """Return variant minus baseline over the seeds (the keys) that both have; None where they share none."""
    seeds = tuple(sorted(variant.keys() & baseline.keys()))
    if not seeds:
        return None
    differences = [variant[seed] - baseline[seed] for seed in seeds]
    return Paired(seeds, mean(differences), len(variant.keys() ^ baseline.keys()))


def median(groups: Sequence[np.ndarray]) -> Median:
    """Return the median of all groups' samples and its bootstrap interval.

    A resample first draws as many groups (seeds) as there are, then samples (steps) from those, so that what differs
    from run to run counts, not only what differs from step to step.
    """
    medians = _resampled_medians(groups, np.random.default_rng(1))
    return Median(float(np.median(np.concatenate(groups))), _percentiles(medians))


def rate(amount: float, time: Median) -> Median:
    """Return what is done per unit of time, where a time with its interval is what `amount` takes."""
    low, high = time.ci95
    return Median(amount / time.median, (amount / high, amount / low))


def ratio_of_medians(numerator: Sequence[np.ndarray], denominator: Sequence[np.ndarray]) -> Ratio:
    """Return the ratio of two medians; the i-th groups belong together (same seed) and are drawn together."""
    rng = np.random.default_rng(1)
    ratios = _resampled_medians(numerator, rng) / _resampled_medians(denominator, rng)
    value = np.median(np.concatenate(numerator)) / np.median(np.concatenate(denominator))
    return Ratio(float(value), _percentiles(ratios))


@lru_cache
def _resampled_groups(n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights that resamples give to the groups, (n_distinct, n_groups), and each resample's row of them.

    They are the same at each call, so that groups which belong together are drawn together.
    """
    rng = np.random.default_rng(0)
    counts = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=RESAMPLES)
    distinct, which = np.unique(counts, axis=0, return_inverse=True)
    return distinct / n_groups, which.reshape(-1)


def _resampled_medians(groups: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Return the median of each resample, shape (RESAMPLES,), without drawing its samples one by one.

    The median of n draws from a distribution is that distribution's quantile at the median of n uniform draws, and
    the order statistics of uniform draws are beta distributed. So one or two draws per resample do for any n.
    """
    values = np.concatenate(groups)
    order = np.argsort(values)
    sizes = np.array([len(group) for group in groups])
    group_of = np.repeat(np.arange(len(groups)), sizes)[order]
    values, n = values[order], len(values)
    k = (n + 1) // 2
    low = rng.beta(k, n + 1 - k, RESAMPLES)
    high = low if n % 2 else low + (1 - low) * rng.beta(1, n - k, RESAMPLES)
    below = (
        np.cumsum(group_of == np.arange(len(groups))[:, None], axis=1) / sizes[:, None]
    )  # of each group, (groups, n)
    first = int(
        np.searchsorted(below.max(axis=0), low.min())
    )  # below it no mixture of groups has a median
    last = min(int(np.searchsorted(below.min(axis=0), high.max())), n - 1)
    below = below[:, first : last + 1]
    weights, which = _resampled_groups(len(groups))
    medians = np.empty(RESAMPLES)
    rows_at_once = max(1, AT_ONCE // below.shape[1])
    for start in range(0, len(weights), rows_at_once):
        mixed = (
            weights[start : start + rows_at_once] @ below
        )  # of each mixture; rows rise from 0 to 1
        mine = (which >= start) & (which < start + len(mixed))
        row = which[mine] - start
        stacked = (mixed + 2 * np.arange(len(mixed))[:, None]).reshape(-1)
        at_low, at_high = (
            np.searchsorted(stacked, u[mine] + 2 * row) - row * mixed.shape[1] for u in (low, high)
        )
        medians[mine] = (
            values[np.minimum(first + at_low, n - 1)] + values[np.minimum(first + at_high, n - 1)]
        ) / 2
    return medians


def _percentiles(samples: np.ndarray) -> Bounds:
    low, high = np.quantile(samples, (TAIL, 1 - TAIL))
    return float(low), float(high)


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Tell which points (gain, cost) no other beats: as good in both and better in one."""
    return [
        not any(g >= gain and c <= cost and (g, c) != (gain, cost) for g, c in points)
        for gain, cost in points
    ]


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return the centred mean over `window` values (odd); near the ends over the part of the window that exists."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
