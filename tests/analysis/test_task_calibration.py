"""Error rates and coverage of task verdicts on simulated runs; `make calibrate` takes 2,000 each.

The simulation shares no code with the statistics. Each example has a difficulty that all models
share, a variant has an effect of its own on each example, and a seed on all examples of its run;
answers are right if the sum and the noise of the run are positive. All variants are drawn alike, so
that their true difference over seeds and examples is 0.
"""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from harness.analysis import crossed, tasks
from harness.results.records.entries import TaskScore

N = int(os.environ.get("CALIBRATE", "300"))  # studies
# standard deviations of a variant's effect on an example, of a seed's on its run
REGIMES = {
    "both": (0.5, 0.05),
    "examples": (0.7, 0.015),
    "seeds": (0.15, 0.15),
    "neither": (0.0, 0.0),
}
regimes = pytest.mark.parametrize("regime", REGIMES)
seed_counts = pytest.mark.parametrize("n_seeds", [2, 3, 5])


def chance(rate):
    """Return the deviation of a rate that chance exceeds once in 1,000 tests."""
    return 3.3 * (rate * (1 - rate) / N) ** 0.5 if N < 2000 else 0.0


def answers(rng, regime, n_seeds, n_examples, n_models):
    """Return whether each answer is right, 0 or 1: (n_models, n_seeds, n_examples)."""
    sd_example, sd_seed = REGIMES[regime]
    difficulty = rng.normal(size=n_examples)
    own = sd_example * rng.normal(size=(n_models, 1, n_examples))
    seed = sd_seed * rng.normal(size=(n_models, n_seeds, 1))
    noise = 0.5 * rng.normal(size=(n_models, n_seeds, n_examples))
    return (difficulty + own + seed + noise > 0).astype(float)


def studies(regime, n_seeds, n_examples=500, n_models=2):
    for i in range(N):
        rng = np.random.default_rng([n_seeds, n_examples, n_models, i])
        yield answers(rng, regime, n_seeds, n_examples, n_models)


def covers(difference):
    low, high = difference.interval()
    return low <= 0 <= high


@regimes
@seed_counts
def test_intervals_have_95_percent_coverage(regime, n_seeds):
    """At least 93 %; with 5 seeds at most 97 %, with 3 at most 98 %, if seeds and examples vary."""
    held = []
    for base, variant in studies(regime, n_seeds):
        held.append(covers(crossed.over_examples(variant - base)))
    rate = float(np.mean(held))
    print(f"coverage, {regime}, {n_seeds} seeds: {100 * rate:.1f} %")
    assert rate >= 0.93 - chance(0.93)
    limit = {("both", 3): 0.98, ("seeds", 3): 0.97}.get((regime, n_seeds), 1.0)
    if n_seeds == 5 and regime != "neither":
        limit = 0.97
    assert rate <= limit + chance(limit)


@pytest.mark.parametrize("n_examples", [40, 500])
def test_intervals_of_one_seed_cover_the_difference_of_the_models(n_examples):
    held = []
    for base, variant in studies("neither", 1, n_examples):
        difference = crossed.over_examples(variant - base)
        held.append(difference is None or covers(difference))
    rate = float(np.mean(held))
    print(f"coverage, one seed, {n_examples} examples: {100 * rate:.1f} %")
    limit = 0.97 if n_examples == 500 else 0.98
    assert 0.93 - chance(0.93) <= rate <= limit + chance(limit)


def comparisons(models):
    """Return the entries of a study as `tasks` compares them, the first model is the baseline."""
    base = SimpleNamespace(label="base", lost_seeds=[])
    for i, model in enumerate(models[1:]):
        entry = SimpleNamespace(label=f"variant {i}", lost_seeds=[])
        score = TaskScore(
            task="t",
            metric="acc",
            seeds=[],
            value=None,
            difference=None,
            higher_is_better=True,
            examples=1,
            reason=None,
        )
        found = crossed.over_examples(model - models[0])
        yield tasks._Comparison(entry, base, score, found)


@regimes
@pytest.mark.parametrize(("n_models", "n_seeds", "n_examples"), [(6, 3, 500), (2, 2, 30)])
def test_false_verdicts_are_rare(regime, n_models, n_seeds, n_examples):
    """Also with two seeds and 30 examples, where seeds often agree by chance."""
    n_false = 0
    for models in studies(regime, n_seeds, n_examples, n_models):
        family = [row for row in comparisons(models) if row.difference is not None]
        scores = tasks._test(family, 0.05) if family else {}
        for score in scores.values():
            low, high = score.difference.ci95
            assert (score.verdict == "unresolved") == (low < 0 < high)
        n_false += any(score.verdict != "unresolved" for score in scores.values())
    rate = n_false / N
    print(f"false verdicts, {regime}, {n_models - 1} entries, {n_seeds} seeds: {100 * rate:.1f} %")
    assert rate <= 0.06 + chance(0.06)


def test_power_comes_from_seeds_and_examples():
    """8 % of the wrong answers turned right are found by many examples and seeds, by few not."""
    found = {}
    for n_seeds, n_examples in ((5, 2000), (5, 100), (2, 2000)):
        n_better = 0
        for i in range(100):
            rng = np.random.default_rng([n_seeds, n_examples, i])
            base, variant = answers(rng, "both", n_seeds, n_examples, 2)
            wrong = (variant == 0) & (rng.random(variant.shape) < 0.08)
            difference = crossed.over_examples(variant + wrong - base)
            n_better += difference.interval()[0] > 0
        found[n_seeds, n_examples] = n_better
    assert found[5, 2000] >= 60, found
    assert max(found[5, 100], found[2, 2000]) <= 30, found
