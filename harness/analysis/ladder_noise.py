"""Noise of the mean losses of a ladder: variance components, and draws of them.

A loss is the curve's value at the size, plus a shift of the seed at all sizes, plus a shift of the
seed at one size that all curves share (the same data order), plus noise of the run. The shared
shifts cancel in paired differences between curves. Variances are the same for all sizes, in nats.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MeanSquare:
    """A mean square with its degrees of freedom; without any, it is 0."""

    value: float
    df: int

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Return draws of the expected mean square given this one, (n,), one per quantile.

        With them, the percentiles of a bootstrap are those of a t distribution, not of a normal.
        """
        from scipy.special import chdtri

        if not self.df:
            return np.zeros(n)
        quantiles = (rng.permutation(n) + 0.5) / n
        return np.asarray(self.value * self.df / chdtri(self.df, quantiles))


def _mean_square(deviations: Array, df: int) -> MeanSquare:
    return MeanSquare(float((deviations**2).sum()) / df if df else 0.0, df)


@dataclass(frozen=True)
class Noise:
    """Mean squares of runs, of the means over curves, and of these over sizes; see `estimate`.

    `counts` has the number of seeds of each mean, (n_curves, n_sizes).
    """

    run: MeanSquare
    size: MeanSquare
    seed: MeanSquare
    counts: NDArray[np.int64]

    @property
    def is_known(self) -> bool:
        """Whether there is an estimate of the noise between sizes."""
        return self.size.df > 0

    def draw(self, n: int, rng: np.random.Generator) -> "Draws":
        """Return n draws (an even number) of the errors of the means, and of one new run's noise.

        The second half repeats the first with the opposite sign, and the errors of a half are
        uncorrelated, which takes most of the Monte Carlo error from standard errors.
        """
        n_curves, n_sizes = self.counts.shape
        run = np.tile(self.run.draw(n // 2, rng), 2)
        size_mean = np.tile(self.size.draw(n // 2, rng), 2)
        seed_mean = np.tile(self.seed.draw(n // 2, rng), 2)
        size = np.maximum(size_mean - run / n_curves, 0.0)
        seed = np.maximum(seed_mean - size_mean / n_sizes, 0.0)
        normal = _antithetic(n, n_curves * n_sizes + n_sizes + 2, rng)
        run_errors = normal[:, : n_curves * n_sizes].reshape(n, n_curves, n_sizes)
        size_errors = normal[:, None, n_curves * n_sizes : -2]
        seed_errors = normal[:, None, -2:-1]
        n_seeds = np.maximum(self.counts, 1)
        own = np.sqrt(run)[:, None, None] * run_errors / np.sqrt(n_seeds)
        shared = np.sqrt(size)[:, None, None] * size_errors / np.sqrt(n_seeds.max(axis=0))
        shared = shared + np.sqrt(seed)[:, None, None] * seed_errors / np.sqrt(n_seeds.max())
        return Draws(own, shared, np.sqrt(run + size + seed) * normal[:, -1])


def _antithetic(n: int, n_columns: int, rng: np.random.Generator) -> Array:
    """Return standard normal draws, (n, n_columns); the second half is minus the first.

    The columns have unit variance and are uncorrelated.
    """
    half = rng.standard_normal((n // 2, n_columns))
    if n // 2 > 2 * n_columns:
        root = np.linalg.cholesky(half.T @ half / len(half))
        half = np.linalg.solve(root, half.T).T
    return np.concatenate([half, -half])


@dataclass(frozen=True)
class Draws:
    """Errors of the means, (n_draws, n_curves, n_sizes), and noise of one new run, (n_draws,).

    `shared` are the same for all curves.
    """

    own: Array
    shared: Array
    new_run: Array


def estimate(losses: Array) -> Noise:
    """Estimate the noise from losses by seed, (n_curves, n_sizes, n_seeds), NaN where missing.

    The analysis of variance uses, at each size, the seeds that all curves have there; the shift of
    a seed at all sizes needs seeds that are complete.
    """
    n_curves, n_sizes, _ = losses.shape
    counts = np.isfinite(losses).sum(axis=2)
    complete = np.asarray(np.isfinite(losses).all(axis=0))  # (n_sizes, n_seeds)
    run_deviations = []
    run_df = 0
    for size in range(n_sizes):
        values = losses[:, size][:, complete[size]]
        if values.shape[1] < 2:
            continue
        deviations = values - values.mean(axis=1, keepdims=True)
        run_deviations.append((deviations - deviations.mean(axis=0)).ravel())
        run_df += (n_curves - 1) * (values.shape[1] - 1)
    run = _mean_square(np.concatenate(run_deviations or [np.zeros(0)]), run_df)

    seeds = complete.all(axis=0)
    n_seeds = int(seeds.sum())
    means = losses[:, :, seeds].mean(axis=0) if n_seeds > 1 else np.zeros((n_sizes, 1))
    deviations = means - means.mean(axis=1, keepdims=True)
    by_seed = deviations.mean(axis=0)
    n_free = max(n_seeds - 1, 0)
    size_noise = _mean_square(deviations - by_seed, n_free * (n_sizes - 1))
    return Noise(run, size_noise, _mean_square(by_seed, n_free), counts)


def from_residuals(residuals: Array, df: int, shape: tuple[int, int]) -> Noise:
    """Return the noise of a ladder of one seed, from the residuals of its fit.

    The residuals of all curves count as independent.
    """
    run = _mean_square(residuals, df)
    size = MeanSquare(run.value / shape[0], df)
    return Noise(run, size, MeanSquare(0.0, 0), np.ones(shape, dtype=np.int64))
