"""Coverage of the intervals of a ladder on simulated ladders; `make calibrate` takes 1,000 of each.

The simulation shares no code with the analysis: a law, a planted compute multiplier, a shift of
each seed at all sizes, one at each size, and the noise of each run.
"""

import os

import numpy as np
import pytest
from scipy.optimize import minimize

from harness.analysis import ladder_estimates
from harness.analysis.ladder_estimates import LadderData

CALIBRATE = "CALIBRATE" in os.environ
N = 1000 if CALIBRATE else 40  # ladders
RESAMPLES = 400 if CALIBRATE else 200
MULTIPLIER = 1.2
N_SIZES = 4
# irreducible loss, reducible loss at the smallest size, exponent, decades of compute; nats of
# noise: of a seed, of a seed at one size, of a run
REGIMES = {
    "large span": ((1.4, 1.0, 0.25, 1.5), (0.01, 0.006, 0.003)),
    "small span, noisy": ((1.4, 1.0, 0.15, 1.2), (0.02, 0.01, 0.01)),
}
regimes = pytest.mark.parametrize("regime", REGIMES if CALIBRATE else ["large span"])


def chance(rate, n=N):
    """Return the deviation of a rate over n ladders that chance exceeds once in 1,000 tests."""
    return 0.0 if CALIBRATE else 3.3 * (rate * (1 - rate) / n) ** 0.5


def true_loss(regime, compute):
    (irreducible, reducible, exponent, _), _ = REGIMES[regime]
    return irreducible + reducible * compute**-exponent


def simulate(regime, n_seeds, i, multiplier=MULTIPLIER):
    """Return compute (2, 4), losses (2, 4, n_seeds), and the same with new noise at all sizes."""
    (_, _, _, decades), (sd_seed, sd_size, sd_run) = REGIMES[regime]
    rng = np.random.default_rng([n_seeds, i])
    compute = np.logspace(0, decades, N_SIZES)
    true = np.stack([true_loss(regime, compute), true_loss(regime, multiplier * compute)])
    seed = sd_seed * rng.standard_normal(n_seeds)
    draws = []
    for _ in range(2):
        size = sd_size * rng.standard_normal((N_SIZES, n_seeds))
        run = sd_run * rng.standard_normal((2, N_SIZES, n_seeds))
        draws.append(true[:, :, None] + seed + size + run)
    return 1e13 * np.stack([compute, compute]), *draws


def contains(estimate, value):
    low, high = estimate.bounds
    return low <= value <= high


def fit(regime, n_seeds, i):
    """Return the compute of a simulated ladder, its fitted laws, and the speedups of the entry."""
    x, losses, _ = simulate(regime, n_seeds, i)
    fitted = ladder_estimates.fit(LadderData(x, losses), True, i, RESAMPLES)
    return x, fitted, ladder_estimates.speedups(fitted, 1, 0)


@regimes
@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_multiplier_intervals_have_95_percent_coverage(regime, n_seeds):
    held = []
    for i in range(N):
        _, _, found = fit(regime, n_seeds, i)
        held.append(contains(found.pooled, np.log(MULTIPLIER)))
    slack = chance(0.95)
    assert 0.93 - slack <= np.mean(held) <= 0.97 + slack


@pytest.mark.skipif(not CALIBRATE, reason="long: make calibrate")
@regimes
@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_other_intervals_cover_at_least_about_95_percent(regime, n_seeds):
    """Multipliers by size, the trend, and the loss of a new run at ten times the largest size."""
    held = []
    for i in range(N):
        x, fitted, found = fit(regime, n_seeds, i)
        budget = 10 * x[1, -1]
        rng = np.random.default_rng([i, n_seeds, 1])
        new_run = true_loss(regime, MULTIPLIER * budget / 1e13)
        new_run += np.hypot.reduce(REGIMES[regime][1]) * rng.standard_normal()
        by_size = [contains(estimate, np.log(MULTIPLIER)) for estimate in found.by_size]
        trend = contains(found.slope, 0.0)
        held.append([*by_size, trend, contains(fitted.loss(1, budget, 1), new_run)])
    coverage = np.mean(held, axis=0)
    assert coverage.min() >= 0.92 and coverage[:-1].max() <= 0.98


@regimes
@pytest.mark.parametrize("n_seeds", [2, 3, 5] if CALIBRATE else [3])
def test_the_left_out_error_is_that_of_predicting_new_runs(regime, n_seeds):
    """Its root mean square is within 10 % of that on runs which were never measured."""
    reported = []
    true = []
    for i in range(N):
        x, losses, new_losses = simulate(regime, n_seeds, i)
        fitted = ladder_estimates.fit(LadderData(x, losses), True, resamples=2)
        smaller = ladder_estimates.without_largest(fitted, True, resamples=2)
        for curve in range(2):
            measured, predicted = ladder_estimates.predict_largest(fitted, smaller, curve)
            reported.append(predicted.value - measured)
            true.append(predicted.value - new_losses[curve, -1].mean())
    ratio = np.sqrt(np.mean(np.square(reported)) / np.mean(np.square(true)))
    assert ratio == pytest.approx(1, abs=0.1 if CALIBRATE else 0.35)


def test_the_left_out_error_is_that_of_a_fit_by_hand():
    """The same prediction from three sizes by scipy's Nelder-Mead, within 10 % of the error."""
    x, losses, _ = simulate("large span", 3, 0)
    losses[:, -1] += 0.1  # the law breaks
    fitted = ladder_estimates.fit(LadderData(x, losses), True)
    smaller = ladder_estimates.without_largest(fitted, True)
    observed = np.log(losses[:, :-1].mean(axis=2))
    log_x = np.log(x / 1e13)

    def predict(parameters, size):
        irreducible, *reducible = np.exp(parameters[:3])
        return [irreducible + reducible[i] * np.exp(-parameters[3 + i] * size[i]) for i in (0, 1)]

    def objective(parameters):
        r = np.abs(observed - np.log(predict(parameters, log_x[:, :-1])))
        return 1e6 * np.where(r <= 1e-3, r**2 / 2, 1e-3 * (r - 5e-4)).sum()

    start = np.array([np.log(1.3), 0.0, 0.0, 0.3, 0.3])
    options = {"maxiter": 20_000, "maxfev": 20_000, "xatol": 1e-9, "fatol": 1e-9, "adaptive": True}
    for _ in range(5):
        start = minimize(objective, start, method="Nelder-Mead", options=options).x
    for curve, by_hand in enumerate(predict(start, log_x[:, -1])):
        measured, predicted = ladder_estimates.predict_largest(fitted, smaller, curve)
        assert measured == pytest.approx(losses[curve, -1].mean())
        assert predicted.value - measured == pytest.approx(by_hand - measured, rel=0.1)
