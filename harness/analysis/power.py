"""Power of the verdicts of a family, the seeds that a verdict needs, and the power that remains.

Effects and margins are in standard deviations of paired differences where they have no unit. All
functions are pure functions of numbers. `thresholds` states the rule of the verdicts and its
approximations; power is within 1 point of that of simulated studies with normal noise.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from harness.analysis import dunnett
from harness.analysis.power_thresholds import (
    FloatArray,
    Rule,
    chi_squared,
    lattice,
    thresholds,
)
from harness.analysis.significance import ALPHA, TWO_KEYS_FROM
from harness.results.records.comparisons import TestFamily

POWER = 0.8  # power at which a number of seeds is stated
MAX_SEEDS = 10_000  # larger numbers of seeds are not stated
CONFIDENCE = 0.95  # of the interval of a number of seeds
ALL_SEEDS_TO = 12  # numbers of seeds that the table has one by one
TABLE_RATIO = 1.6  # of larger ones
TABLE_NODES = 16  # thresholds of the table
N_PREDICTED = 512  # points of the lattice for predictive power
N_DIFFERENCES = 41  # at which the interval of a number of seeds is searched


@dataclass(frozen=True)
class Noise:
    """An estimate of the standard deviation of paired differences, with degrees of freedom."""

    sd: float
    degrees_of_freedom: int


@dataclass(frozen=True)
class SeedsNeeded:
    """A number of seeds with the ends of its 95 % interval; None is more than `MAX_SEEDS`."""

    seeds: int | None
    low: int | None
    high: int | None

    @property
    def bounds(self) -> tuple[int | None, int | None]:
        """The ends of the interval."""
        return self.low, self.high


@dataclass(frozen=True)
class PredictivePower:
    """The probability that a later look finds a difference, and that it finds equivalence."""

    different: float
    equivalent: float


def two_key_power(
    n_seeds: int,
    effect: float,
    n_comparisons: int,
    alpha: float = ALPHA,
    rule: Rule = "two keys",
) -> float:
    """Return the power to find the only entry of a family that differs, by `effect`."""
    if n_seeds < 2:
        return 0.0
    limits = thresholds(n_seeds, n_comparisons, alpha, rule).different
    return float(_beyond(np.asarray(effect * math.sqrt(n_seeds)), limits))


def equivalence_power(
    n_seeds: int,
    effect: float,
    margin: float,
    n_comparisons: int,
    alpha: float = ALPHA,
    rule: Rule = "two keys",
) -> float:
    """Return the power to find a difference of `effect` within `margin`, if no other entry is.

    Holm's correction gives more power if other entries are equivalent too.
    """
    if n_seeds < 2:
        return 0.0
    limits = thresholds(n_seeds, n_comparisons, alpha, rule).equivalent
    root = math.sqrt(n_seeds)
    return float(_within(np.asarray(effect * root), margin * root - limits))


def _beyond(shift: FloatArray, limits: FloatArray) -> FloatArray:
    """Return the mean probability that |Z + shift| exceeds the limits (on the last axis)."""
    from scipy.special import ndtr

    shift = shift[..., None]
    return np.asarray((ndtr(shift - limits) + ndtr(-shift - limits)).mean(axis=-1))


def _within(shift: FloatArray, limits: FloatArray) -> FloatArray:
    """Return the mean probability that |Z + shift| is below the limits, which may be negative."""
    from scipy.special import ndtr

    shift = shift[..., None]
    inside = ndtr(limits - shift) - ndtr(-limits - shift)
    return np.asarray(np.maximum(inside, 0.0).mean(axis=-1))


# -- number of seeds -------------------------------------------------------------------------------


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


def minimum_detectable_effect(
    n_seeds: int, n_comparisons: int, alpha: float = ALPHA, rule: Rule = "two keys"
) -> float:
    """Return the smallest effect, in standard deviations, with power `POWER`; inf for one seed."""
    if n_seeds < 2:
        return math.inf
    low = 0.0
    high = 1.0
    while two_key_power(n_seeds, high, n_comparisons, alpha, rule) < POWER:
        low = high
        high = 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        if two_key_power(n_seeds, middle, n_comparisons, alpha, rule) >= POWER:
            high = middle
        else:
            low = middle
    return high


def entry_noise(own: Noise, pooled: Noise) -> Noise:
    """Return the pooled noise of a family, or the entry's own if it is significantly larger."""
    from scipy.special import fdtrc

    if pooled.sd == 0:
        return own
    ratio = (own.sd / pooled.sd) ** 2
    p = float(fdtrc(own.degrees_of_freedom, pooled.degrees_of_freedom, ratio))
    return own if p < ALPHA / 2 else pooled


def seeds_of_entry(
    differences: FloatArray, family: TestFamily, margin: float | None, n_more: int = 0
) -> SeedsNeeded:
    """Return the seeds that resolve an entry's paired differences, one for each seed.

    `n_more` further entries of the family were tested at an earlier look only. Families of two
    seeds will have more, and be tested by two keys; a family without a pooled noise stays with
    Holm's rule.
    """
    own = Noise(float(differences.std(ddof=1)), len(differences) - 1)
    noise = own
    rule: Rule = "Holm"
    if family.noise is not None and family.degrees_of_freedom is not None:
        noise = entry_noise(own, Noise(family.noise, family.degrees_of_freedom))
        rule = "two keys"
    mean = float(differences.mean())
    n_compared = len(family.entries) + n_more
    return seeds_to_resolve(mean, noise, len(differences), n_compared, margin, family.alpha, rule)


def seeds_to_resolve(
    difference: float,
    noise: Noise,
    n_seeds: int,
    n_comparisons: int,
    margin: float | None = None,
    alpha: float = ALPHA,
    rule: Rule = "two keys",
) -> SeedsNeeded:
    """Return the seeds with which an entry is found different, or within the margin.

    Whichever needs fewer seeds counts. `difference` is the mean over `n_seeds`, in the unit of the
    noise and the margin. The interval covers the number of seeds that the true difference and the
    true noise need: it has the smallest and the largest number over the region of both that a
    likelihood ratio does not reject. Its ends are at least `n_seeds` + 1.
    """
    differences, low_sd, high_sd = _confidence_region(difference, noise, n_seeds)
    points = np.array([difference, *differences, *differences])
    sds = np.array([noise.sd, *low_sd, *high_sd])
    seeds = _seeds(np.abs(points) / sds, margin, sds, n_comparisons, alpha, rule)
    seeds = np.maximum(seeds, n_seeds + 1)
    numbers = [
        None if number > MAX_SEEDS else int(number)
        for number in (seeds[0], seeds.min(), seeds.max())
    ]
    return SeedsNeeded(*numbers)


def _confidence_region(
    difference: float, noise: Noise, n_seeds: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return differences, and the ends of the region of standard deviations at each of them.

    The likelihood ratio is calibrated such that the region's differences are the t interval.
    """
    from scipy.special import lambertw, stdtrit

    df = noise.degrees_of_freedom
    critical = float(stdtrit(df, (1 + CONFIDENCE) / 2))
    t = np.linspace(-critical, critical, N_DIFFERENCES)
    differences = difference + t * noise.sd / math.sqrt(n_seeds)
    if differences[0] < 0 < differences[-1]:
        closest = int(np.argmin(np.abs(differences)))
        differences[closest] = 0.0
        t[closest] = -difference / noise.sd * math.sqrt(n_seeds)
    squares = noise.sd**2 * (df + t**2)
    # y - ln y <= 1 + excess, where y is squares / (df + 1) over the variance
    excess = np.maximum(np.log1p(critical**2 / df) - np.log1p(t**2 / df), 1e-9)
    exponent = -np.exp(-1 - excess)
    smallest = np.maximum(-lambertw(exponent).real, 1e-12)
    largest = -lambertw(exponent, -1).real
    return (
        differences,
        np.sqrt(squares / (df + 1) / largest),
        np.sqrt(squares / (df + 1) / smallest),
    )


def _seeds(
    effects: FloatArray,
    margin: float | None,
    sds: FloatArray,
    n_comparisons: int,
    alpha: float,
    rule: Rule,
) -> FloatArray:
    """Return the number of seeds of each effect, interpolated in a table; inf beyond it."""
    from scipy.special import ndtri

    table = _table(n_comparisons, alpha, rule)
    shift = effects * table.roots[:, None]
    power = _beyond(shift, table.different[:, None])
    if margin is not None:
        within = margin / sds * table.roots[:, None]
        equal = _within(shift, within[..., None] - table.equivalent[:, None])
        power = np.maximum(power, equal)
    enough = power >= POWER
    reached = enough.any(axis=0)
    row = np.where(reached, enough.argmax(axis=0), len(table.roots) - 1)
    before = np.maximum(row - 1, 0)
    column = np.arange(len(effects))
    # the probit of the power is nearly linear in the square root of the number of seeds
    above = ndtri(np.clip(power[row, column], 1e-15, 1 - 1e-15))
    below = ndtri(np.clip(power[before, column], 1e-15, 1 - 1e-15))
    gap = above - below
    part = np.where(gap > 0, (ndtri(POWER) - below) / np.where(gap > 0, gap, 1.0), 1.0)
    root = table.roots[before] + np.clip(part, 0.0, 1.0) * (table.roots[row] - table.roots[before])
    return np.where(reached, np.ceil(root**2 - 1e-9), np.inf)


@dataclass(frozen=True)
class _Table:
    """Roots of numbers of seeds (n_numbers,), and their thresholds (n_numbers, TABLE_NODES)."""

    roots: FloatArray
    different: FloatArray
    equivalent: FloatArray


@lru_cache(maxsize=256)
def _table(n_comparisons: int, alpha: float, rule: Rule) -> _Table:
    numbers = list(range(2, ALL_SEEDS_TO + 1))
    while numbers[-1] < MAX_SEEDS:
        numbers.append(min(MAX_SEEDS, round(numbers[-1] * TABLE_RATIO)))
    rows = [thresholds(n, n_comparisons, alpha, rule) for n in numbers]
    parts = (len(rows), TABLE_NODES, -1)
    return _Table(
        roots=np.sqrt(numbers),
        different=np.array([row.different for row in rows]).reshape(parts).mean(axis=2),
        equivalent=np.array([row.equivalent for row in rows]).reshape(parts).mean(axis=2),
    )


# -- the power that remains ------------------------------------------------------------------------


def predictive_power(
    difference: float,
    own: Noise,
    pooled: Noise,
    n_now: int,
    n_last: int,
    n_comparisons: int,
    margin: float | None = None,
    alpha: float = ALPHA,
    rule: Rule = "two keys",
) -> PredictivePower:
    """Return the probability of each verdict at `n_last` seeds, given the `n_now` seeds so far.

    It is the Bayesian predictive probability with a flat prior of the mean and of the logarithm of
    the noise (Spiegelhalter, Freedman & Blackburn 1986). `own` is the standard deviation of the
    entry's differences, `pooled` that of the family. `alpha` is the level of the last look. Without
    noise no seed changes the difference, so that both probabilities are 0.
    """
    if own.sd <= 0 or n_now < 2 or n_last <= n_now:
        return PredictivePower(0.0, 0.0)
    from scipy.special import ndtr, stdtrit

    noise = entry_noise(own, pooled)
    n_more = n_last - n_now
    u = lattice()[:, :N_PREDICTED]
    variance = noise.sd**2 * noise.degrees_of_freedom / chi_squared(noise.degrees_of_freedom, u[0])
    own_squares = (n_now - 1) * own.sd**2 + variance * chi_squared(n_more, u[1])
    own_variance = own_squares / (n_last - 1)
    df = n_last - 1
    different = float(stdtrit(df, 1 - alpha / 2 / n_comparisons)) * np.sqrt(own_variance)
    equivalent = float(stdtrit(df, 1 - alpha / n_comparisons)) * np.sqrt(own_variance)
    if rule == "two keys" and n_last >= TWO_KEYS_FROM and n_comparisons > 1:
        pooled_df = n_comparisons * df
        more_df = n_comparisons * n_more
        squares = pooled.sd**2 * (pooled.degrees_of_freedom + chi_squared(more_df, u[2]))
        pooled_variance = squares / (pooled.degrees_of_freedom + more_df)
        largest = np.sqrt(np.maximum(own_variance, pooled_variance))
        critical = dunnett.critical_value(n_comparisons, pooled_df, alpha)
        own_t = float(stdtrit(df, 1 - ALPHA / 2))  # the second key is that of 95 % at each look
        different = np.maximum(critical * largest, own_t * np.sqrt(own_variance))
        pooled_t = float(stdtrit(pooled_df, 1 - alpha / n_comparisons))
        own_t = float(stdtrit(df, 1 - ALPHA))
        equivalent = np.maximum(pooled_t * largest, own_t * np.sqrt(own_variance))
    within = np.zeros_like(variance)
    if margin is not None:
        within = np.maximum(margin - equivalent / math.sqrt(n_last), 0.0)
    beyond = np.maximum(different / math.sqrt(n_last), within)
    spread = np.sqrt(variance * (1 / n_now - 1 / n_last))
    is_within = ndtr((within - difference) / spread) - ndtr((-within - difference) / spread)
    is_beyond = ndtr((difference - beyond) / spread) + ndtr((-beyond - difference) / spread)
    return PredictivePower(float(is_beyond.mean()), float(is_within.mean()))
