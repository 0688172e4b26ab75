"""If these failed, intervals of two or three seeds would be those of many."""

import numpy as np
import pytest
from scipy.stats import t

from harness.analysis import ladder_estimates, ladder_noise
from harness.analysis.ladder_estimates import LadderData
from harness.analysis.ladder_noise import MeanSquare, Noise

SD_SEED = 0.03
SD_SIZE = 0.02
SD_RUN = 0.01


def losses(n_seeds, n_curves=2, n_sizes=4, seed=0):
    rng = np.random.default_rng(seed)
    return (
        2.0
        + rng.random((n_curves, n_sizes, 1))
        + SD_SEED * rng.standard_normal(n_seeds)
        + SD_SIZE * rng.standard_normal((n_sizes, n_seeds))
        + SD_RUN * rng.standard_normal((n_curves, n_sizes, n_seeds))
    )


@pytest.mark.parametrize("n_curves", [1, 2, 5])
def test_the_components_of_noise_are_separated(n_curves):
    found = ladder_noise.estimate(losses(2000, n_curves))
    own = SD_RUN**2 / n_curves
    if n_curves > 1:
        assert found.run.value == pytest.approx(SD_RUN**2, rel=0.1)
    assert found.size.value == pytest.approx(SD_SIZE**2 + own, rel=0.1)
    assert found.seed.value == pytest.approx(SD_SEED**2 + (SD_SIZE**2 + own) / 4, rel=0.1)


def test_degrees_of_freedom_are_those_of_the_analysis_of_variance():
    found = ladder_noise.estimate(losses(3))
    assert (found.run.df, found.size.df, found.seed.df) == (8, 6, 2)
    incomplete = losses(3)
    incomplete[1, 2, 0] = np.nan
    found = ladder_noise.estimate(incomplete)
    assert (found.run.df, found.size.df, found.seed.df) == (7, 3, 1)
    assert found.counts[1, 2] == 2
    assert not ladder_noise.estimate(losses(1)).is_known


@pytest.mark.parametrize("df", [3, 8])
def test_draws_have_the_tails_of_t(df):
    """With few degrees of freedom, a normal distribution would be too narrow."""
    noise = Noise(
        MeanSquare(1e-4, df), MeanSquare(0.0, df), MeanSquare(0.0, df), np.full((2, 4), 3)
    )
    ends = []
    for seed in range(20):
        draws = noise.draw(2000, np.random.default_rng(seed))
        difference = (draws.own[:, 1] - draws.own[:, 0]).mean(axis=1)
        ends.append(np.quantile(difference, 0.975) / (0.01 * np.sqrt(2 / 3 / 4)))
    assert np.mean(ends) == pytest.approx(t.ppf(0.975, df), rel=0.03)


def test_a_new_run_is_less_certain_than_its_law():
    x = np.tile(np.logspace(13, 15, 4), (2, 1))
    law = 1.4 + (x / 1e13) ** -0.25
    noise = losses(3) - losses(3).mean(axis=2, keepdims=True)
    fitted = ladder_estimates.fit(LadderData(x, law[:, :, None] + noise), True)
    widths = []
    for n_seeds in (None, 3, 1):
        low, high = fitted.loss(0, 1e14, n_seeds).bounds
        widths.append(high - low)
    assert widths[0] < widths[1] < widths[2]
    assert widths[2] > 2 * 1.96 * np.hypot(SD_RUN, SD_SIZE) * 0.7


def test_a_shift_of_a_seed_at_all_sizes_moves_no_speedup():
    x = np.tile(np.logspace(13, 15, 4), (2, 1))
    law = 1.4 + np.array([[1.0], [1.2**-0.25]]) * (x / 1e13) ** -0.25
    rng = np.random.default_rng(1)
    noisy = law[:, :, None] + 0.001 * rng.standard_normal((2, 4, 3))
    shifted = noisy + np.array([0.05, -0.03, -0.02])
    found = []
    for values in (noisy, shifted):
        fitted = ladder_estimates.fit(LadderData(x, values), True)
        found.append(ladder_estimates.speedups(fitted, 1, 0).pooled)
    assert found[1].value == pytest.approx(found[0].value, abs=1e-9)
    assert found[1].bounds == pytest.approx(found[0].bounds, abs=0.01)
