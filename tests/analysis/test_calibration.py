"""Statistics are held to what they promise, on simulated studies whose truth is known; `make calibrate` takes 2,000."""

import os
from itertools import product

import numpy as np
import pytest

from harness.analysis import factorial as effects
from harness.analysis import significance as verdicts

N = int(os.environ.get("CALIBRATE", "300"))  # studies
SEED_NOISE, NOISE, N_ENTRIES = (
    0.05,
    0.01,
    8,
)  # nats: what a seed does to all entries alike, and to each by itself

DRAWS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "heavy-tailed": lambda rng, size: rng.standard_t(3, size=size) / 3**0.5,  # of the same variance
}
noises = pytest.mark.parametrize("noise", DRAWS)
seed_counts = pytest.mark.parametrize("n_seeds", [3, 5, 10])


def chance(rate: float, n: int = N) -> float:
    """Return how far a rate that is counted in n studies may lie off by chance alone, in one test of a thousand."""
    return 3.3 * (rate * (1 - rate) / n) ** 0.5


def studies(noise, n_seeds, effect=0.0, n=N):
    """Yield the paired differences of every entry: final losses in blocks of seeds, less the baseline's."""
    rng = np.random.default_rng(0)
    for _ in range(n):
        seeds = rng.normal(2.0, SEED_NOISE, size=n_seeds)
        losses = seeds + NOISE * DRAWS[noise](rng, (N_ENTRIES + 1, n_seeds))
        yield {f"v{i}": (losses[i] + effect - losses[0]).tolist() for i in range(1, N_ENTRIES + 1)}


@noises
@seed_counts
def test_families_without_an_effect_give_false_verdicts_in_at_most_one_of_twenty(noise, n_seeds):
    false = sum(
        any(
            verdict.verdict in ("better", "worse")
            for verdict in verdicts.test_family(study, None).values()
        )
        for study in studies(noise, n_seeds)
    )
    assert false / N <= 0.05 + (chance(0.05) if N < 2000 else 0.0)


@noises
@seed_counts
def test_entries_that_differ_by_the_whole_margin_are_called_equivalent_in_at_most_one_study_of_twenty(
    noise, n_seeds
):
    false = sum(
        any(
            verdict.verdict == "equivalent"
            for verdict in verdicts.test_family(study, 0.02).values()
        )
        for study in studies(noise, n_seeds, effect=0.02)
    )
    assert false / N <= 0.05 + (chance(0.05) if N < 2000 else 0.0)


@noises
@seed_counts
def test_intervals_of_differences_hold_the_truth_nineteen_times_of_twenty(noise, n_seeds):
    held = [
        verdicts.mean(study["v1"]).ci95[0] <= 0.03 <= verdicts.mean(study["v1"]).ci95[1]
        for study in studies(noise, n_seeds, effect=0.03, n=max(N, 2000))
    ]
    assert 0.93 <= np.mean(held) <= 0.97


@noises
@seed_counts
def test_intervals_of_effects_hold_the_truth_nineteen_times_of_twenty(noise, n_seeds):
    rng, levels = np.random.default_rng(1), {"a": ["a0", "a1"], "b": ["b0", "b1", "b2"]}
    held = []
    for _ in range(N):
        seeds = rng.normal(2.0, SEED_NOISE, size=n_seeds)
        values = {}
        for cell in product(*levels.values()):
            true = 0.02 * (cell[0] == "a1") + 0.03 * (cell == ("a1", "b2"))
            values[cell] = dict(enumerate(seeds + true + NOISE * DRAWS[noise](rng, n_seeds)))
        found = effects.estimate(values, levels)
        low, high = found.main[0].ci95
        pair = next(effect for effect in found.interactions if effect.levels["b"] == "b2")
        held.append((low <= 0.03 <= high, pair.ci95[0] <= 0.03 <= pair.ci95[1]))
    slack = chance(0.95) if N < 2000 else 0.0
    assert (
        0.93 - slack <= np.mean(held, axis=0).min() and np.mean(held, axis=0).max() <= 0.97 + slack
    )


@pytest.mark.parametrize(("difference", "n_asked"), [(0.006, 1), (0.01, 8), (0.006, 8)])
def test_the_planned_number_of_seeds_finds_the_difference_four_times_of_five(difference, n_asked):
    sd, alpha = NOISE * 2**0.5, verdicts.ALPHA / n_asked
    n_seeds = verdicts.required_seeds(lambda n: verdicts.paired_t_power(n, difference, sd, alpha))
    draws = np.random.default_rng(2).normal(difference, sd, size=(max(N, 1000), n_seeds))
    found = np.mean([verdicts.paired_t_pvalue(values) < alpha for values in draws])
    assert found == pytest.approx(0.8, abs=0.03 + (chance(0.8) if N < 2000 else 0.0))
