"""Effective speedup, its trend and projections from the losses of a ladder; pure functions.

Intervals are those of a parametric bootstrap: each resample draws the noise variances given their
estimates, then the errors of the mean losses with seeds as blocks, and fits all curves again. The
draws of the variances give the percentiles the tails of Student's t, which two or three seeds need.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.analysis import ladder_noise, power_laws
from harness.analysis.intervals import TAIL
from harness.analysis.ladder_noise import Draws, Noise
from harness.analysis.power_laws import Points, PowerLaws
from harness.results.records.estimates import Bounds

Array = NDArray[np.float64]

RESAMPLES = 2000
MAX_LOG = 20.0  # of a multiplier in a resample whose baseline never reaches the loss


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; None without one. Infinite: the baseline never gets there."""

    value: float
    bounds: Bounds | None


def add(estimate: Estimate, added: Estimate | None) -> Estimate | None:
    """Return the sum of two independent estimates; half-widths add in quadrature on each side."""
    if added is None:
        return None
    value = estimate.value + added.value
    if estimate.bounds is None or added.bounds is None or not math.isfinite(value):
        return Estimate(value, None)
    below = math.hypot(estimate.value - estimate.bounds[0], added.value - added.bounds[0])
    above = math.hypot(estimate.bounds[1] - estimate.value, added.bounds[1] - added.value)
    return Estimate(value, (value - below, value + above))


def weighted_mean(weights: Array, estimates: Sequence[Estimate | None]) -> Estimate | None:
    """Return the weighted mean of the estimates; None if one with a weight is missing.

    It has an interval if all of them have one.
    """
    used = [(w, one) for w, one in zip(weights, estimates, strict=True) if w > 0]
    value = 0.0
    below = 0.0
    above = 0.0
    is_known = True
    for weight, estimate in used:
        if estimate is None:
            return None
        value += weight * estimate.value
        if estimate.bounds is None:
            is_known = False
            continue
        below = math.hypot(below, weight * (estimate.value - estimate.bounds[0]))
        above = math.hypot(above, weight * (estimate.bounds[1] - estimate.value))
    return Estimate(value, (value - below, value + above) if is_known else None)


@dataclass(frozen=True)
class LadderData:
    """The runs of a ladder, NaN for missing ones.

    `x` is the compute of each curve at each size, (n_curves, n_sizes), or another measure of scale;
    `losses` are by seed, (n_curves, n_sizes, n_seeds). Sizes are in ascending order.
    """

    x: Array
    losses: Array

    @property
    def means(self) -> Array:
        """The mean loss over seeds, (n_curves, n_sizes), NaN without any run."""
        counts = np.isfinite(self.losses).sum(axis=2)
        return np.where(counts, np.nansum(self.losses, axis=2) / np.maximum(counts, 1), np.nan)


@dataclass(frozen=True)
class FittedLadder:
    """The laws of all curves, and their refits to resamples of the mean losses.

    `resampled` and `draws` are None if nothing is known about the noise.
    """

    data: LadderData
    laws: PowerLaws
    noise: Noise
    resampled: PowerLaws | None
    draws: Draws | None

    def parameter(self, name: str, curve: int) -> Estimate:
        """Return `irreducible`, `exponent` or `coefficient` of a curve."""

        def values(laws: PowerLaws) -> Array:
            if name == "coefficient":
                return laws.coefficient(curve)
            by_curve: Array = getattr(laws, name)
            return by_curve[:, curve]

        samples = values(self.resampled) if self.resampled else None
        return _estimate(values(self.laws)[0], samples)

    def loss(self, curve: int, x: float, n_seeds: int | None) -> Estimate:
        """Return the loss at x with the interval of the law, or of the mean over new seeds."""
        at = np.array([x])
        samples = None
        if self.resampled is not None and self.draws is not None:
            samples = self.resampled.loss(curve, at)[:, 0]
            if n_seeds is not None:
                samples = samples + self.draws.new_run / np.sqrt(n_seeds)
        return _estimate(self.laws.loss(curve, at)[0, 0], samples)

    def projected_log_multiplier(self, curve: int, baseline: int, x: float) -> Estimate:
        """Return the logarithm of the compute multiplier at x, from the laws of both curves."""
        at = np.array([x])

        def values(laws: PowerLaws) -> Array:
            log_x = laws.log_x(baseline, laws.loss(curve, at))
            return np.asarray(log_x[:, 0] - np.log(x))

        samples = values(self.resampled) if self.resampled else None
        return _estimate(values(self.laws)[0], samples)


@dataclass(frozen=True)
class Speedups:
    """Logarithms of the compute multipliers of a curve over a baseline.

    `by_size` has None for sizes without a paired seed. `pooled` is the mean over the sizes,
    weighted by precision (`weights`, (n_sizes,)); `slope` is its change per unit of log compute.
    Both are None below two sizes.
    """

    by_size: list[Estimate | None]
    pooled: Estimate | None
    slope: Estimate | None
    weights: Array


def fit(data: LadderData, shared: bool, seed: int = 0, resamples: int = RESAMPLES) -> FittedLadder:
    """Fit all curves to the mean losses over seeds, and to resamples of these."""
    means = data.means
    present = np.isfinite(means)
    curves = np.broadcast_to(np.arange(len(means))[:, None], means.shape)
    points = Points(data.x[present], curves[present], shared)
    laws = power_laws.fit(points, means[present])
    fitted = np.concatenate(
        [laws.loss(curve, data.x[curve, present[curve]])[0] for curve in range(len(means))]
    )
    noise = ladder_noise.estimate(data.losses)
    if not noise.is_known:
        df = len(fitted) - points.n_parameters
        residuals = means[present] - fitted
        noise = ladder_noise.from_residuals(residuals, max(df, 0), (means.shape[0], means.shape[1]))
    if not noise.is_known:
        return FittedLadder(data, laws, noise, None, None)
    draws = noise.draw(resamples, np.random.default_rng(seed))
    errors = (draws.own + draws.shared)[:, present]
    losses = np.maximum(fitted + errors, 0.01 * fitted)
    return FittedLadder(data, laws, noise, power_laws.refit(points, losses, laws), draws)


def without_largest(fitted: FittedLadder, shared: bool, resamples: int = 0) -> FittedLadder:
    """Return the fit to all sizes but the largest."""
    data = LadderData(fitted.data.x[:, :-1], fitted.data.losses[:, :-1])
    return fit(data, shared, resamples=resamples or RESAMPLES)


def predict_largest(
    fitted: FittedLadder, smaller: FittedLadder, curve: int
) -> tuple[float, Estimate] | None:
    """Return the mean loss of a curve at the largest size, and its prediction from the others.

    The interval of the prediction is that of the mean over the seeds. None if nothing is measured.
    """
    n_seeds = int(np.isfinite(fitted.data.losses[curve, -1]).sum())
    if not n_seeds:
        return None
    predicted = smaller.loss(curve, float(fitted.data.x[curve, -1]), n_seeds)
    return float(fitted.data.means[curve, -1]), predicted


def speedups(fitted: FittedLadder, curve: int, baseline: int) -> Speedups:
    """Return the effective speedup of a curve at each size, pooled, and its trend.

    The loss of the curve at a size is the fitted loss of the baseline plus the mean difference of
    the seeds that both have, so that the noise they share cancels.
    """
    data = fitted.data
    differences = data.losses[curve] - data.losses[baseline]  # (n_sizes, n_seeds)
    n_pairs = np.isfinite(differences).sum(axis=1)
    sizes = np.flatnonzero(n_pairs)
    by_size: list[Estimate | None] = [None] * len(n_pairs)
    all_weights = np.zeros(len(n_pairs))
    if not len(sizes):
        return Speedups(by_size, None, None, all_weights)
    n_pairs = n_pairs[sizes]
    difference = np.nansum(differences[sizes], axis=1) / n_pairs
    x = data.x[curve, sizes]
    x_baseline = data.x[baseline, sizes]

    def log_multipliers(laws: PowerLaws, added: Array) -> Array:
        target = laws.loss(baseline, x_baseline) + added
        return np.asarray(laws.log_x(baseline, target) - np.log(x))

    center = log_multipliers(fitted.laws, difference)[0]
    samples = None
    if fitted.resampled is not None and fitted.draws is not None:
        counts = fitted.noise.counts[:, sizes]
        own = fitted.draws.own[:, :, sizes] * np.sqrt(counts / n_pairs)
        errors = own[:, curve] - own[:, baseline]
        samples = log_multipliers(fitted.resampled, difference + errors)
    for i, size in enumerate(sizes):
        by_size[size] = _estimate(center[i], None if samples is None else samples[:, i])
    if len(sizes) < 2:
        return Speedups(by_size, None, None, all_weights)
    local_slope = fitted.laws.exponent[0, baseline] * fitted.laws.reducible(baseline, x_baseline)[0]
    weights = local_slope**2 * n_pairs
    weights /= weights.sum()
    all_weights[sizes] = weights
    pooled = _combine(center, samples, weights)
    log_x = np.log(x)
    centered = log_x - np.average(log_x, weights=weights)
    slope = _combine(center, samples, weights * centered / (weights * centered**2).sum())
    return Speedups(by_size, pooled, slope, all_weights)


def _combine(center: Array, samples: Array | None, weights: Array) -> Estimate:
    value = float(weights @ center) if np.isfinite(center).all() else np.inf
    if samples is None:
        return Estimate(value, None)
    return _estimate(value, np.minimum(samples, MAX_LOG) @ weights)


def _estimate(value: float, samples: Array | None) -> Estimate:
    if samples is None:
        return Estimate(float(value), None)
    low, high = np.quantile(samples, (TAIL, 1 - TAIL), method="inverted_cdf")
    return Estimate(float(value), (float(low), float(high)))
