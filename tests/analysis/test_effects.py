"""If these failed, the effects of a study would be tested on other runs than they claim."""

from itertools import product

import numpy as np
import pytest

from harness.analysis import effects as of_effects
from harness.analysis import factorial
from harness.analysis.hypotheses import test_hypotheses
from harness.analysis.pairs import METRICS

test_hypotheses.__test__ = False  # it is the function under test
AXES = {"attention": ["mha", "gqa2"], "positional": ["learned", "rope"]}
FAILED = ("failed", "nan", "the loss is not finite")


@pytest.fixture
def crossed(fake):
    """A study of two axes of two levels under one parallelism, with five seeds."""
    fake.axes = AXES | {"parallelism": ["single"]}
    fake.baseline = {"attention": "mha", "positional": "learned"}
    fake.seeds = tuple(range(5))
    return fake


def found(tests):
    effects = (*tests.main_effects, *tests.interactions)
    return {tuple(effect.levels.values()): effect for effect in effects}


def test_a_verdict_and_its_interval_agree_in_every_metric(crossed, read_study):
    crossed.margins = {"val_loss": 0.01}
    for quantity, tests in test_hypotheses(read_study(crossed)).items():
        for effect in found(tests).values():
            assert effect.n == 5
            if effect.method == "exact":
                assert effect.ci95 is None and effect.p is None
                continue
            low, high = effect.ci95
            lower_is_better = METRICS[quantity].lower_is_better
            if effect.verdict == "unresolved":
                assert low < 0 < high
            elif effect.verdict in ("better", "worse"):
                assert (high <= 0) if (effect.verdict == "better") == lower_is_better else low >= 0


def test_memory_that_no_seed_changes_is_exact(crossed, read_study):
    effects = found(test_hypotheses(read_study(crossed))["peak_memory"])
    assert {effect.method for effect in effects.values()} == {"exact"}
    assert effects["gqa2",].verdict == "better" and effects["rope",].verdict is not None
    for effect in effects.values():
        assert effect.p is None and effect.se is None and effect.ci95 is None


def test_a_level_that_lost_a_seed_gains_no_verdict(crossed, read_study):
    """The seeds that are left are a selection in favour of the level that failed."""
    before = found(test_hypotheses(read_study(crossed))["val_loss"])
    assert before["rope",].verdict == "better"
    crossed.outcome = {"gqa2-rope-single-s1": FAILED, "rope-gqa2-single-s1": FAILED}
    effects = found(test_hypotheses(read_study(crossed))["val_loss"])
    assert effects["rope",].n == 4 and effects["rope",].lost_seeds == [1]
    assert effects["rope",].verdict == "unresolved" and effects["rope",].ci95 is None


@pytest.mark.parametrize(("effect", "expected"), [(0.5, "unresolved"), (-0.5, "better")])
def test_a_baseline_that_lost_a_seed_makes_no_level_worse(effect, expected):
    lost = {(a, p): {4} if p == "learned" else set() for a, p in product(*AXES.values())}
    rng = np.random.default_rng(1)
    cells = {}
    for cell in lost:
        level = effect if cell[1] == "rope" else 0.0
        cells[cell] = {seed: 2.0 + level + 0.01 * rng.normal() for seed in range(4)}
    contrast = factorial.contrasts(cells, AXES).main[1]
    sides = of_effects.lost_sides(contrast, lost, AXES)
    assert contrast.levels == {"positional": "rope"} and sides == (set(), {4})
    (tested,) = of_effects.test_contrasts([contrast], None, lost=[sides])
    assert tested.verdict == expected and tested.lost_seeds == [4]
    assert (tested.ci95 is None) == (expected == "unresolved")


def test_an_interaction_with_a_lost_seed_has_no_verdict():
    levels = {"a": ["a0", "a1", "a2"], "b": ["b0", "b1"]}
    cells = [(a, b) for a in levels["a"] for b in levels["b"]]
    lost = {cell: set() for cell in cells} | {("a1", "b0"): {3}}
    values = {cell: dict.fromkeys(range(3), 1.0) for cell in cells}
    for contrast in factorial.contrasts(values, levels).interactions:
        sides = of_effects.lost_sides(contrast, lost, levels)
        needs_it = contrast.levels["a"] == "a1"
        assert sides == (({3}, {3}) if needs_it else (set(), set()))


def test_seeds_that_all_entries_lost_are_no_selection():
    lost = {cell: {0} for cell in product(*AXES.values())}
    values = {cell: {1: 1.0, 2: 1.1} for cell in lost}
    for contrast in factorial.contrasts(values, AXES).main:
        assert of_effects.lost_sides(contrast, lost, AXES) == ((), ())
