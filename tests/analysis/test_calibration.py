"""Coverage and error rates of the statistics on simulated studies; `make calibrate` takes 2,000."""

import os
from itertools import product

import numpy as np
import pytest

from harness.analysis import factorial, significance

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


@noises
@seed_counts
def test_effect_intervals_have_95_percent_coverage(noise, n_seeds):
    rng, levels = np.random.default_rng(1), {"a": ["a0", "a1"], "b": ["b0", "b1", "b2"]}
    held = []
    for _ in range(N):
        seeds = rng.normal(2.0, SEED_NOISE, size=n_seeds)
        values = {}
        for cell in product(*levels.values()):
            true = 0.02 * (cell[0] == "a1") + 0.03 * (cell == ("a1", "b2"))
            values[cell] = dict(enumerate(seeds + true + NOISE * DRAWS[noise](rng, n_seeds)))
        found = factorial.estimate(values, levels)
        low, high = found.main[0].ci95
        pair = next(effect for effect in found.interactions if effect.levels["b"] == "b2")
        held.append((low <= 0.03 <= high, pair.ci95[0] <= 0.03 <= pair.ci95[1]))
    slack = chance(0.95) if N < 2000 else 0.0
    assert (
        0.93 - slack <= np.mean(held, axis=0).min() and np.mean(held, axis=0).max() <= 0.97 + slack
    )
