"""If these failed, a study would be planned with too few seeds, or stop asking too early."""

import math

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from harness.analysis import power
from harness.analysis.power import Noise

FAMILIES = pytest.mark.parametrize("n_comparisons", [1, 2, 5, 17])
RULES = pytest.mark.parametrize("rule", ["two keys", "Holm"])


@pytest.mark.parametrize("n_seeds", [2, 3, 5, 20, 400])
def test_power_of_one_comparison_is_that_of_the_t_test(n_seeds):
    for shift in (1.0, 2.5, 4.0):
        effect = shift / math.sqrt(n_seeds)
        expected = TTestPower().power(effect, n_seeds, 0.05)
        assert power.two_key_power(n_seeds, effect, 1) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("n_comparisons", [2, 17])
def test_power_of_holm_is_that_of_the_t_test(n_comparisons):
    for n_seeds in (2, 5, 50):
        effect = 3.0 / math.sqrt(n_seeds)
        expected = TTestPower().power(effect, n_seeds, 0.05 / n_comparisons)
        found = power.two_key_power(n_seeds, effect, n_comparisons, rule="Holm")
        assert found == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(("n_seeds", "percent"), [(3, [6, 38, 74]), (5, [18, 84, 98])])
def test_power_is_that_of_the_audit(n_seeds, percent):
    found = [100 * power.two_key_power(n_seeds, effect, 17) for effect in (1, 2, 3)]
    assert found == pytest.approx(percent, abs=3)


@FAMILIES
def test_power_rises_with_seeds_and_effect(n_comparisons):
    seeds = [1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 40, 100, 1000]
    effects = [0.0, 0.1, 0.5, 1.0, 2.0, 3.0, 6.0]
    table = np.array(
        [[power.two_key_power(n, effect, n_comparisons) for effect in effects] for n in seeds]
    )
    assert (np.diff(table, axis=1) >= 0).all()
    # with 2 seeds another rule is used, which uses all of the level for small effects
    assert (np.diff(table[2:, 1:], axis=0) > -1e-3).all()  # errors of the lattice
    assert (np.diff(table[:, 2:], axis=0) > -1e-3).all()
    assert (table[:, 0] <= 0.051).all()
    equal = [power.equivalence_power(n, 0.2, 1.0, n_comparisons) for n in seeds]
    assert (np.diff(equal[2:]) > -1e-3).all()


@FAMILIES
@RULES
def test_detectable_effect_and_required_seeds_agree(n_comparisons, rule):
    for n_seeds in (3, 7, 60):
        effect = power.minimum_detectable_effect(n_seeds, n_comparisons, rule=rule)
        found = power.two_key_power(n_seeds, effect, n_comparisons, rule=rule)
        assert found == pytest.approx(0.8, abs=1e-6)
        needed = power.required_seeds(
            lambda n, effect=effect: power.two_key_power(n, effect, n_comparisons, rule=rule)
        )
        assert needed == n_seeds
    assert power.minimum_detectable_effect(1, n_comparisons) == math.inf


@pytest.mark.parametrize("ratio", [0.05, 0.3, 1.0, 4.0, 50.0])
def test_required_seeds_is_the_smallest_sufficient_number(ratio):
    def enough(n):
        return power.two_key_power(n, ratio, 5)

    n = power.required_seeds(enough)
    assert enough(n) >= 0.8 and (n == 2 or enough(n - 1) < 0.8)
    assert power.required_seeds(lambda n: 0.5) is None


@FAMILIES
@pytest.mark.parametrize("margin", [None, 1.0])
def test_seeds_to_resolve_have_the_stated_power(n_comparisons, margin):
    noise = Noise(1.0, 2 * n_comparisons)
    for effect in (0.0, 0.06, 0.3, 0.7, 1.5):

        def resolves(n, effect=effect):
            found = power.two_key_power(n, effect, n_comparisons)
            if margin is None:
                return found
            return max(found, power.equivalence_power(n, effect, margin, n_comparisons))

        expected = power.required_seeds(resolves)
        needed = power.seeds_to_resolve(effect, noise, 2, n_comparisons, margin)
        assert needed.seeds == (None if expected is None else max(expected, 3))
        mirrored = power.seeds_to_resolve(-effect, noise, 2, n_comparisons, margin)
        assert mirrored.seeds == needed.seeds


def test_seeds_to_resolve_say_what_is_unknown():
    noise = Noise(0.01, 8)
    without_margin = power.seeds_to_resolve(0.004, noise, 3, 4)
    assert without_margin.low < without_margin.seeds and without_margin.high is None
    with_margin = power.seeds_to_resolve(0.004, noise, 3, 4, margin=0.01)
    assert with_margin.low < with_margin.seeds < with_margin.high
    precise = power.seeds_to_resolve(0.004, noise, 80, 4)
    assert precise.low > without_margin.low and precise.high is not None
    assert power.seeds_to_resolve(0.0, noise, 3, 4).seeds is None


def test_a_noisy_entry_is_planned_with_its_own_noise():
    pooled = Noise(0.01, 34)
    assert power.entry_noise(Noise(0.05, 2), pooled) == Noise(0.05, 2)
    assert power.entry_noise(Noise(0.015, 2), pooled) == pooled
    assert power.entry_noise(Noise(0.001, 2), pooled) == pooled


def test_predictive_power_goes_from_doubt_to_certainty():
    own = Noise(0.01, 4)
    pooled = Noise(0.01, 20)

    def at(difference, margin=None, n_last=12):
        return power.predictive_power(difference, own, pooled, 5, n_last, 5, margin)

    assert at(0.05).different > 0.999 and at(0.05, margin=0.03).equivalent < 0.001
    assert at(0.0).different < 0.1 and at(0.0).equivalent == 0.0
    assert at(0.0, margin=0.03).equivalent > 0.99
    assert at(0.01, n_last=6).different < at(0.01, n_last=40).different
    assert at(-0.01).different == pytest.approx(at(0.01).different)
    both = at(0.012, margin=0.02)
    assert both.different + both.equivalent <= 1
    constant = power.predictive_power(0.05, Noise(0.0, 4), pooled, 5, 12, 5)
    assert constant == power.PredictivePower(0.0, 0.0)
