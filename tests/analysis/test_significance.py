"""If these failed, the report would give false verdicts, or withhold valid ones."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from harness.analysis import families, significance

LOWER = [-0.031, -0.027, -0.035, -0.029]
NOISE = [0.01, -0.012, 0.003, -0.002]
TINY = [0.0011, -0.0007, 0.0004, -0.0002]


def alone(differences, margin, **options):
    return families.test_differences(differences, margin, **options).results


def words(differences, margin=None, **options):
    return {
        name: verdict.verdict for name, verdict in alone(differences, margin, **options).items()
    }


def test_each_verdict_is_given():
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


def test_without_margin_only_equal_bits_are_equivalent():
    assert words({"tiny": TINY, "same": [0.0, 0.0, 0.0]}) == {
        "tiny": "unresolved",
        "same": "equivalent",
    }


def test_significant_difference_within_margin_is_equivalent():
    assert words({"lower": LOWER}, 0.1) == {"lower": "equivalent"}
    assert words({"lower": LOWER}, 0.03) == {"lower": "better"}


def test_differences_of_a_metric_without_noise_are_resolved():
    asked = {"less memory": [-0.5, -0.5], "a byte": [1e-9, 1e-9]}
    found = alone(asked, 0.01, without_noise=True)
    assert [v.verdict for v in found.values()] == ["better", "equivalent"]
    assert found["less memory"].p == 0.0 and found["less memory"].effect_size is None


def test_the_numbers_are_those_of_scipy_and_statsmodels():
    rng = np.random.default_rng(1)
    asked = {f"v{i}": rng.normal(0.02 * i, 0.03, size=5).tolist() for i in range(6)}
    found, margin = alone(asked, 0.02), 0.02
    p = [stats.ttest_1samp(values, 0).pvalue for values in asked.values()]
    one_sided = [
        max(
            stats.ttest_1samp(values, -margin, alternative="greater").pvalue,
            stats.ttest_1samp(values, margin, alternative="less").pvalue,
        )
        for values in asked.values()
    ]
    for name, method, expected in (
        ("p_adjusted", "holm", p),
        ("p_bh", "fdr_bh", p),
        ("p_equivalent", "holm", one_sided),
    ):
        got = [getattr(verdict, name) for verdict in found.values()]
        assert got == pytest.approx(multipletests(expected, method=method)[1], rel=1e-9)
    for values, verdict in zip(asked.values(), found.values(), strict=True):
        interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert verdict.own95 == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_correction_removes_chance_findings_of_20_tests():
    rng = np.random.default_rng(3)
    asked = {f"v{i}": rng.normal(0, 0.01, size=3).tolist() for i in range(40)}
    found = alone(asked, None)
    assert min(v.p for v in found.values()) < 0.05 and {v.verdict for v in found.values()} == {
        "unresolved"
    }


def test_effect_size_by_hand():
    values = np.array(
        [1.0, 2.0, 3.0, 4.0]
    )  # mean 2.5, sd 1.2910; J(3) = sqrt(2/3) * Gamma(1.5) / Gamma(1) = 0.7236
    assert significance.effect_size(values) == pytest.approx(2.5 / 1.2909944 * 0.7236013, rel=1e-6)
    assert significance.effect_size(np.array([1.0, 2.0])) is None
