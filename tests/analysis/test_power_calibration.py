"""Power, seeds needed and plans on simulated studies; `make calibrate` takes 20,000 of each kind.

The simulation has its own code for the rule of the verdicts: critical values are quantiles of
simulated statistics.
"""

import os

import numpy as np
import pytest
from scipy import stats

from harness.analysis import power

CALIBRATE = "CALIBRATE" in os.environ
N = 20_000 if CALIBRATE else 4_000  # studies of each kind
CELLS = (
    [(n, m) for n in (2, 3, 4, 5, 8, 12, 20) for m in (1, 2, 5, 9, 17)]
    if CALIBRATE
    else [(2, 2), (3, 2), (3, 17), (5, 5)]
)
# Chance of a simulated rate near 50 %, 3.3 standard deviations, beyond the allowed 1 point.
ALLOWED = 0.01 + 3.3 * 0.5 / N**0.5


class Family:
    """Simulated losses of a baseline and `m` entries without effects, (N, m + 1, n)."""

    def __init__(self, n: int, m: int, seed: int = 0) -> None:
        self.n = n
        self.m = m
        self.y = np.random.default_rng(seed).normal(scale=0.5**0.5, size=(N, m + 1, n))
        differences = self.y[:, 1:] - self.y[:, :1]
        self.means = differences.mean(axis=2)
        self.own = differences.var(axis=2, ddof=1)
        df = m * (n - 1)
        by_seed = self.y - self.y.mean(axis=1, keepdims=True)
        residuals = by_seed - by_seed.mean(axis=2, keepdims=True)
        self.pooled = 2 * (residuals**2).sum(axis=(1, 2)) / df
        floor = np.maximum(self.pooled, self.own.mean(axis=1))
        self.se = np.sqrt(np.maximum(self.own, floor[:, None]) / n)
        self.own_se = np.sqrt(self.own / n)
        self.falls_back = np.full(N, n == 2 or m == 1)
        if not self.falls_back.any():
            others = self.y[:, 1:]
            from_others = (self.y[:, 0] - others.mean(axis=1)).var(axis=1, ddof=1) / (1 + 1 / m)
            rest = others - others.mean(axis=1, keepdims=True)
            rest -= rest.mean(axis=2, keepdims=True)
            rest_df = (m - 1) * (n - 1)
            ratio = from_others / ((rest**2).sum(axis=(1, 2)) / rest_df)
            self.falls_back = stats.f.sf(ratio, n - 1, rest_df) < 0.02
        # max |t| over k comparisons with a common variance
        z = np.random.default_rng(1).normal(size=(100_000, m + 1))
        s = np.sqrt(np.random.default_rng(2).chisquare(df, size=(100_000, 1)) / df)
        t = np.abs(z[:, 1:] - z[:, :1]) / (2**0.5 * s)
        self.critical = [np.quantile(t[:, : m - k].max(axis=1), 0.95) for k in range(m)]

    def differ(self, effect: float) -> np.ndarray:
        """Return whether the first entry is found to differ if it alone has an effect, (N,)."""
        means = self.means.copy()
        means[:, 0] += effect
        steps = np.arange(self.m)
        own_t = np.abs(means) / self.own_se
        holm = stats.t.ppf(1 - 0.025 / (self.m - steps), self.n - 1)
        two_keys = self._first(np.abs(means) / self.se, np.array(self.critical))
        two_keys &= own_t[:, 0] > stats.t.ppf(0.975, self.n - 1)
        return np.where(self.falls_back, self._first(own_t, holm), two_keys)

    def _first(self, t: np.ndarray, critical: np.ndarray) -> np.ndarray:
        """Return whether the step-down test rejects the first entry."""
        order = np.argsort(-t, axis=1)
        rejected = np.logical_and.accumulate(np.take_along_axis(t, order, 1) > critical, axis=1)
        return (rejected & (order == 0)).any(axis=1)

    def equal(self, effect: float, margin: float) -> np.ndarray:
        """Return whether the first entry is found within the margin in the first step, (N,)."""
        distance = margin - np.abs(self.means[:, 0] + effect)
        df = self.n - 1
        holm = stats.t.ppf(1 - 0.05 / self.m, df) * self.own_se[:, 0]
        both = np.maximum(
            stats.t.ppf(1 - 0.05 / self.m, self.m * df) * self.se[:, 0],
            stats.t.ppf(0.95, df) * self.own_se[:, 0],
        )
        return distance > np.where(self.falls_back, holm, both)


@pytest.mark.parametrize(("n", "m"), CELLS)
def test_power_is_that_of_simulated_studies(n, m):
    family = Family(n, m)
    for effect in (0.5, 1.0, 2.0, 3.0):
        simulated = family.differ(effect).mean()
        assert power.two_key_power(n, effect, m) == pytest.approx(simulated, abs=ALLOWED)
    for effect, margin in ((0.0, 1.0), (0.3, 1.5), (1.0, 3.0)):
        simulated = family.equal(effect, margin).mean()
        found = power.equivalence_power(n, effect, margin, m)
        assert found == pytest.approx(simulated, abs=ALLOWED)
