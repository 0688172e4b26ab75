"""Coverage and error rates of the statistics on simulated studies; `make calibrate` takes 2,000."""

import os

import numpy as np
import pytest

from harness.analysis import significance

N = int(os.environ.get("CALIBRATE", "300"))  # studies
SEED_NOISE, NOISE, N_ENTRIES = (
    0.05,
    0.01,
    8,
)  # nats: noise that a seed adds to all entries, and to each separately

DRAWS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "heavy-tailed": lambda rng, size: rng.standard_t(3, size=size) / 3**0.5,  # of the same variance
}
noises = pytest.mark.parametrize("noise", DRAWS)
seed_counts = pytest.mark.parametrize("n_seeds", [3, 5, 10])


def chance(rate: float, n: int = N) -> float:
    """Return the deviation of a rate over n studies that chance exceeds once in 1,000 tests."""
    return 3.3 * (rate * (1 - rate) / n) ** 0.5


def studies(noise, n_seeds, effect=0.0, n=N):
    """Yield the paired differences of every entry: final loss minus the baseline's, by seed."""
    rng = np.random.default_rng(0)
    for _ in range(n):
        seeds = rng.normal(2.0, SEED_NOISE, size=n_seeds)
        losses = seeds + NOISE * DRAWS[noise](rng, (N_ENTRIES + 1, n_seeds))
        yield {f"v{i}": (losses[i] + effect - losses[0]).tolist() for i in range(1, N_ENTRIES + 1)}


@noises
@seed_counts
def test_familywise_error_rate_is_at_most_5_percent(noise, n_seeds):
    false = sum(
        any(
            verdict.verdict in ("better", "worse")
            for verdict in significance.test_family(study, None).values()
        )
        for study in studies(noise, n_seeds)
    )
    assert false / N <= 0.05 + (chance(0.05) if N < 2000 else 0.0)


@noises
@seed_counts
def test_false_equivalence_rate_is_at_most_5_percent(noise, n_seeds):
    false = sum(
        any(
            verdict.verdict == "equivalent"
            for verdict in significance.test_family(study, 0.02).values()
        )
        for study in studies(noise, n_seeds, effect=0.02)
    )
    assert false / N <= 0.05 + (chance(0.05) if N < 2000 else 0.0)


@noises
@seed_counts
def test_difference_intervals_have_95_percent_coverage(noise, n_seeds):
    held = [
        significance.mean(study["v1"]).ci95[0] <= 0.03 <= significance.mean(study["v1"]).ci95[1]
        for study in studies(noise, n_seeds, effect=0.03, n=max(N, 2000))
    ]
    assert 0.93 <= np.mean(held) <= 0.97


@pytest.mark.parametrize(("difference", "n_asked"), [(0.006, 1), (0.01, 8), (0.006, 8)])
def test_planned_seeds_reach_80_percent_power(difference, n_asked):
    sd, alpha = NOISE * 2**0.5, significance.ALPHA / n_asked
    n_seeds = significance.required_seeds(
        lambda n: significance.paired_t_power(n, difference, sd, alpha)
    )
    draws = np.random.default_rng(2).normal(difference, sd, size=(max(N, 1000), n_seeds))
    found = np.mean([significance.paired_t_pvalue(values) < alpha for values in draws])
    assert found == pytest.approx(0.8, abs=0.03 + (chance(0.8) if N < 2000 else 0.0))
