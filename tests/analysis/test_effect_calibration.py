"""Error rates and coverage of effects on simulated studies; `make calibrate` takes 2,000 of each.

The simulation shares no code with the statistics. Half of the variance of a run is that of the seed
at the level of the first axis: all runs of a seed at this level share it. Residuals pooled over
effects take it for noise of single runs, and declare 12 to 17 % of effects that do not exist.
"""

import math
import os
from itertools import product

import numpy as np
import pytest

from harness.analysis import effects, factorial

CALIBRATE = "CALIBRATE" in os.environ
N = int(os.environ.get("CALIBRATE", "300"))  # studies
LEVELS = {"a": ["a0", "a1", "a2"], "b": ["b0", "b1"]}
SEED_NOISE = 0.05
NOISE = 0.01
DRAWS = {
    "normal": lambda rng: rng.normal(),
    "heavy-tailed": lambda rng: rng.standard_t(3) / math.sqrt(3),
}
SEED_COUNTS = [3, 5, 10]
ALL_KINDS = list(product(DRAWS, SEED_COUNTS))
A_FEW = [("normal", 3), ("heavy-tailed", 5), ("normal", 10)]
kinds = pytest.mark.parametrize(("noise", "n_seeds"), ALL_KINDS if CALIBRATE else A_FEW)


def studies(noise, n_seeds, true=0.0):
    """Yield the losses of every cell by seed; `true` is the effect of a1 at every b."""
    rng = np.random.default_rng(n_seeds)
    draw = DRAWS[noise]
    for _ in range(N):
        cells = {(a, b): {} for a in LEVELS["a"] for b in LEVELS["b"]}
        for seed in range(n_seeds):
            of_seed = SEED_NOISE * rng.normal()
            of_level = {a: NOISE * math.sqrt(0.5) * draw(rng) for a in LEVELS["a"]}
            for (a, _), losses in cells.items():
                own = NOISE * math.sqrt(0.5) * draw(rng)
                losses[seed] = 2.0 + of_seed + of_level[a] + own + true * (a == "a1")
        yield cells


def families_of(cells, margin=None):
    """Return main effects and interactions; the margin is that of main effects."""
    found = factorial.contrasts(cells, LEVELS)
    return [
        effects.test_contrasts(found.main, margin),
        effects.test_contrasts(found.interactions, None),
    ]


def chance(rate):
    """Return the deviation of a rate that chance exceeds once in 1,000 tests."""
    return 3.3 * math.sqrt(rate * (1 - rate) / N) if N < 2000 else 0.0


@kinds
def test_effects_that_do_not_exist_are_seldom_found(noise, n_seeds):
    false = [0, 0]
    for cells in studies(noise, n_seeds):
        for family, found in enumerate(families_of(cells)):
            false[family] += any(effect.verdict in ("better", "worse") for effect in found)
    assert max(false) / N <= 0.06 + chance(0.05), false


@kinds
def test_effect_intervals_of_noisy_levels_cover(noise, n_seeds):
    own = []
    simultaneous = []
    for cells in studies(noise, n_seeds, true=0.02):
        main, interactions = families_of(cells)
        hits = []
        for effect, truth in zip([*main, *interactions], [0.02, 0.0, 0.0, 0.0, 0.0], strict=True):
            own.append(effect.own95[0] <= truth <= effect.own95[1])
            hits.append(effect.ci95[0] <= truth <= effect.ci95[1])
        simultaneous.append(all(hits[:3]))
    rate = sum(own) / len(own)
    assert 0.93 - chance(0.95) <= rate <= 0.97 + chance(0.95)
    assert sum(simultaneous) / N >= 0.94 - chance(0.95)


@pytest.mark.parametrize("n_seeds", SEED_COUNTS)
def test_no_effect_disagrees_with_its_interval(n_seeds):
    rng = np.random.default_rng(20 + n_seeds)
    verdicts = set()
    for cells in studies("normal", n_seeds):
        for (a, b), losses in cells.items():
            if a == "a1" or b == "b1":
                size = rng.choice([0.0, 0.02, 0.05])
                losses.update({seed: loss + size for seed, loss in losses.items()})
        main, interactions = families_of(cells, 0.02)
        for effect in [*main, *interactions]:
            low, high = effect.ci95
            excludes_zero = low >= 0 or high <= 0
            verdicts.add(effect.verdict)
            if effect.verdict == "worse":
                assert low >= 0
            elif effect.verdict == "better":
                assert high <= 0
            elif effect.verdict == "unresolved":
                assert not excludes_zero
            else:
                assert low >= -0.02 and high <= 0.02
    assert verdicts >= {"worse", "unresolved"}


@pytest.mark.parametrize("n_seeds", [5, 10])
def test_runs_that_are_missing_at_random_cost_no_validity(n_seeds):
    """Three axes, so that the cells of a seed are replaced by the model where it can."""
    rng = np.random.default_rng(40 + n_seeds)
    levels = {"a": ["a0", "a1"], "b": ["b0", "b1"], "c": ["c0", "c1"]}
    own = []
    false = 0
    for _ in range(N):
        cells = {cell: {} for cell in product(*levels.values())}
        for seed in range(n_seeds):
            of_seed = SEED_NOISE * rng.normal()
            of_level = {label: NOISE * rng.normal() for label in levels["a"]}
            for cell, losses in cells.items():
                if rng.random() > 0.15:
                    losses[seed] = 2.0 + of_seed + of_level[cell[0]] + NOISE * rng.normal()
        main = effects.test_contrasts(factorial.contrasts(cells, levels).main, None)
        false += any(effect.verdict in ("better", "worse") for effect in main)
        for effect in main:
            if effect.own95 is not None:
                own.append(effect.own95[0] <= 0 <= effect.own95[1])
    assert false / N <= 0.06 + chance(0.05)
    assert 0.93 - chance(0.95) <= sum(own) / len(own) <= 0.97 + chance(0.95)
