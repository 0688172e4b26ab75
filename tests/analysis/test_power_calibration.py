"""Power, seeds needed and plans on simulated studies; `make calibrate` takes 20,000 of each kind.

The simulation has its own code for the rule of the verdicts: critical values are quantiles of
simulated statistics.
"""

import os

import numpy as np
import pytest
from scipy import stats

from harness.analysis import power
from harness.analysis.power import Noise

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
    """Simulated losses of a baseline and m entries over n seeds, (n_studies, m + 1, n)."""

    def __init__(self, y: np.ndarray) -> None:
        self.y = y
        self.m = m = y.shape[1] - 1
        self.n = n = y.shape[2]
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
        self.falls_back = np.full(len(y), n == 2 or m == 1)
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

    def equal(self, effect: float, margin: float | np.ndarray) -> np.ndarray:
        """Return whether the first entry is found within the margin in the first step, (N,)."""
        distance = margin - np.abs(self.means[:, 0] + effect)
        df = self.n - 1
        holm = stats.t.ppf(1 - 0.05 / self.m, df) * self.own_se[:, 0]
        both = np.maximum(
            stats.t.ppf(1 - 0.05 / self.m, self.m * df) * self.se[:, 0],
            stats.t.ppf(0.95, df) * self.own_se[:, 0],
        )
        return distance > np.where(self.falls_back, holm, both)


def simulate(n: int, m: int, n_studies: int = N, seed: int = 0) -> np.ndarray:
    """Return losses without effects whose paired differences have a standard deviation of 1."""
    size = (n_studies, m + 1, n)
    return np.random.default_rng(seed).normal(scale=0.5**0.5, size=size)


@pytest.mark.parametrize(("n", "m"), CELLS)
def test_power_is_that_of_simulated_studies(n, m):
    family = Family(simulate(n, m))
    for effect in (0.5, 1.0, 2.0, 3.0):
        simulated = family.differ(effect).mean()
        assert power.two_key_power(n, effect, m) == pytest.approx(simulated, abs=ALLOWED)
    for effect, margin in ((0.0, 1.0), (0.3, 1.5), (1.0, 3.0)):
        simulated = family.equal(effect, margin).mean()
        found = power.equivalence_power(n, effect, margin, m)
        assert found == pytest.approx(simulated, abs=ALLOWED)


@pytest.mark.parametrize(
    ("now", "last", "m"),
    [(3, 8, 5), (5, 12, 2), (6, 10, 1), (4, 10, 17)] if CALIBRATE else [(3, 8, 5)],
)
def test_predicted_verdicts_happen_as_often_as_predicted(now, last, m):
    """If this failed, a sequential study would stop entries that more seeds would resolve."""
    n_studies = 3000 if CALIBRATE else 300
    y = simulate(last, m, n_studies, seed=3)
    # The prior of predictive power is flat in the effect and in the logarithm of the noise. Studies
    # whose noise is 1 follow it if each counts by the inverse of the noise that it shows.
    rng = np.random.default_rng(4)
    y[:, 1] += rng.uniform(-7, 7, size=(n_studies, 1))
    margins = np.exp(rng.uniform(np.log(0.3), np.log(6), size=n_studies))
    first = Family(y[:, :, :now])
    predicted = np.empty((n_studies, 2))
    weights = np.empty(n_studies)
    for i in range(n_studies):
        own = Noise(first.own[i, 0] ** 0.5, now - 1)
        pooled = Noise(first.pooled[i] ** 0.5, m * (now - 1))
        found = power.predictive_power(first.means[i, 0], own, pooled, now, last, m, margins[i])
        predicted[i] = found.different, found.equivalent
        weights[i] = 1 / power.entry_noise(own, pooled).sd
    at_last = Family(y)
    equal = at_last.equal(0.0, margins)
    observed = np.column_stack([at_last.differ(0.0) & ~equal, equal])
    for kind in range(2):
        for low, high in ((0.0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 1.01)):
            group = (predicted[:, kind] >= low) & (predicted[:, kind] < high)
            weight = weights * group / max(weights[group].sum(), 1e-9)
            expected = weight @ predicted[:, kind]
            chance = 3.5 * (expected * (1 - expected) * (weight @ weight)) ** 0.5
            assert weight @ observed[:, kind] == pytest.approx(expected, abs=0.03 + chance)


@pytest.mark.parametrize("margin", [None, 1.0])
@pytest.mark.parametrize(
    ("n", "m"), [(2, 5), (3, 1), (3, 2), (3, 17), (5, 5), (10, 17)] if CALIBRATE else [(3, 5)]
)
def test_interval_of_seeds_needed_covers_the_true_number(n, m, margin):
    """If this failed, a study of which 60 seeds are needed would be given 7 to 30."""
    n_studies = 600 if CALIBRATE else 150
    rng = np.random.default_rng(5)
    df = m * (n - 1)
    for effect in (0.3, 0.5, 0.8, 1.2):

        def resolves(seeds, effect=effect):
            found = power.two_key_power(seeds, effect, m)
            if margin is not None:
                found = max(found, power.equivalence_power(seeds, effect, margin, m))
            return found

        needed = max(power.required_seeds(resolves), n + 1)
        covered = []
        for _ in range(n_studies):
            difference = effect + rng.normal() / n**0.5
            noise = Noise((rng.chisquare(df) / df) ** 0.5, df)
            found = power.seeds_to_resolve(difference, noise, n, m, margin)
            high = np.inf if found.high is None else found.high
            covered.append(found.low is not None and found.low <= needed <= high)
        chance = 3.3 * (0.93 * 0.07 / n_studies) ** 0.5
        # it covers more than stated where a number of seeds has a whole range of effects
        assert np.mean(covered) >= 0.92 - chance


@pytest.mark.parametrize(("effect", "m"), [(1.0, 1), (0.8, 5), (1.2, 17), (0.6, 2)])
def test_planned_seeds_reach_80_percent_power(effect, m):
    planned = power.required_seeds(lambda n: power.two_key_power(n, effect, m))
    with_planned = Family(simulate(planned, m)).differ(effect).mean()
    with_fewer = Family(simulate(planned - 1, m)).differ(effect).mean()
    chance = 3.3 * (0.16 / N) ** 0.5
    assert with_planned >= 0.79 - chance and with_fewer <= 0.81 + chance
