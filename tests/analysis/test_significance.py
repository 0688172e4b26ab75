"""A verdict that chance makes, or that is withheld where the numbers give it, is worse than no report."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from harness.analysis import significance as verdicts

LOWER = [-0.031, -0.027, -0.035, -0.029]
NOISE = [0.01, -0.012, 0.003, -0.002]
TINY = [0.0011, -0.0007, 0.0004, -0.0002]


def words(differences, margin=None, **options):
    return {
        name: verdict.verdict
        for name, verdict in verdicts.test_family(differences, margin, **options).items()
    }


def test_each_word_where_it_belongs():
    asked = {
        "lower": LOWER,
        "higher": [-x for x in LOWER],
        "noise": NOISE,
        "tiny": TINY,
        "one seed": [-1.0],
    }
    assert words(asked, 0.005) == {
        "lower": "better",
        "higher": "worse",
        "noise": "unresolved",
        "tiny": "equivalent",
        "one seed": None,
    }
    assert words({"faster": [0.5, 0.51]}, lower_is_better=False) == {"faster": "better"}


def test_without_a_margin_nothing_but_the_same_bits_is_equivalent():
    assert words({"tiny": TINY, "same": [0.0, 0.0, 0.0]}) == {
        "tiny": "unresolved",
        "same": "equivalent",
    }


def test_what_is_certain_but_within_the_margin_is_equivalent_as_the_study_said_it_does_not_count():
    assert words({"lower": LOWER}, 0.1) == {"lower": "equivalent"}
    assert words({"lower": LOWER}, 0.03) == {"lower": "better"}


def test_differences_without_noise_are_resolved_by_any_number_of_seeds():
    found = verdicts.test_family({"less memory": [-0.5, -0.5], "a byte": [1e-9, 1e-9]}, 0.01)
    assert [v.verdict for v in found.values()] == ["better", "equivalent"]
    assert found["less memory"].p == 0.0 and found["less memory"].effect_size is None


def test_the_numbers_are_those_of_scipy_and_statsmodels():
    rng = np.random.default_rng(1)
    asked = {f"v{i}": rng.normal(0.02 * i, 0.03, size=5).tolist() for i in range(6)}
    found, margin = verdicts.test_family(asked, 0.02), 0.02
    p = [stats.ttest_1samp(values, 0).pvalue for values in asked.values()]
    one_sided = [
        max(
            stats.ttest_1samp(values, -margin, alternative="greater").pvalue,
            stats.ttest_1samp(values, margin, alternative="less").pvalue,
        )
        for values in asked.values()
    ]
    for name, method, expected in (
        ("p_holm", "holm", p),
        ("p_bh", "fdr_bh", p),
        ("p_equivalent_holm", "holm", one_sided),
    ):
        got = [getattr(verdict, name) for verdict in found.values()]
        assert got == pytest.approx(multipletests(expected, method=method)[1], rel=1e-9)
    for values, verdict in zip(asked.values(), found.values(), strict=True):
        interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert verdict.difference.ci95 == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_correction_takes_back_what_twenty_questions_would_find_by_chance():
    rng = np.random.default_rng(3)
    asked = {f"v{i}": rng.normal(0, 0.01, size=3).tolist() for i in range(40)}
    found = verdicts.test_family(asked, None)
    assert min(v.p for v in found.values()) < 0.05 and {v.verdict for v in found.values()} == {
        "unresolved"
    }


def test_effect_size_by_hand():
    values = np.array(
        [1.0, 2.0, 3.0, 4.0]
    )  # mean 2.5, sd 1.2910; J(3) = sqrt(2/3) * Gamma(1.5) / Gamma(1) = 0.7236
    assert verdicts.effect_size(values) == pytest.approx(2.5 / 1.2909944 * 0.7236013, rel=1e-6)
    assert verdicts.effect_size(np.array([1.0, 2.0])) is None


def test_a_bootstrap_interval_is_scipys_and_is_left_out_where_seeds_are_too_few_for_it():
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=10), rng.normal(size=30)
    assert verdicts.bootstrap(few) is None
    expected = stats.bootstrap(
        (many,), np.mean, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    assert verdicts.bootstrap(many) == (expected.low, expected.high)


# -- how many seeds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "sd", "alpha"), [(0.01, 0.02, 0.05), (0.01, 0.01, 0.05 / 8), (-0.3, 0.2, 0.01)]
)
def test_power_is_that_of_statsmodels(difference, sd, alpha):
    for n in (3, 5, 10):
        expected = TTestPower().power(abs(difference) / sd, n, alpha)
        assert verdicts.paired_t_power(n, difference, sd, alpha) == pytest.approx(
            expected, rel=1e-9
        )
    assert verdicts.paired_t_power(10_000, difference, sd, alpha) == pytest.approx(1)


@pytest.mark.parametrize("ratio", [0.05, 0.3, 1.0, 4.0, 50.0])
def test_the_number_of_seeds_is_the_smallest_that_is_enough(ratio):
    def power(n):
        return verdicts.paired_t_power(n, ratio, 1.0, 0.01)

    n = verdicts.required_seeds(power)
    assert power(n) >= 0.8 and (n == 2 or power(n - 1) < 0.8)
    assert verdicts.required_seeds(lambda n: 0.5) is None


def test_what_seeds_can_detect_is_what_needs_so_many():
    for n in (3, 10, 50):
        difference = verdicts.minimum_detectable_effect(n, 0.02, 0.05)
        assert verdicts.paired_t_power(n, difference, 0.02, 0.05) == pytest.approx(0.8)
    assert verdicts.minimum_detectable_effect(1, 0.02, 0.05) == math.inf


def test_the_power_to_equate_is_what_simulation_gives():
    rng, n = np.random.default_rng(0), 8
    draws = rng.normal(0.2, 1.0, size=(4000, n))
    found = np.mean([verdicts.tost_pvalue(values, 1.2) < 0.05 for values in draws])
    assert verdicts.tost_power(n, 0.2, 1.0, 1.2, 0.05) == pytest.approx(found, abs=0.025)


def test_an_unresolved_difference_says_how_many_seeds_it_takes_and_that_many_resolve_it():
    found = verdicts.test_family({"noise": NOISE, "other": LOWER}, 0.01)["noise"]
    mean, sd = np.mean(NOISE), np.std(NOISE, ddof=1)
    n = found.seeds_to_resolve
    assert n > len(NOISE)
    ways = (
        verdicts.paired_t_power(n, mean, sd, 0.025),
        verdicts.tost_power(n, mean, sd, 0.01, 0.025),
    )
    assert max(ways) >= 0.8
