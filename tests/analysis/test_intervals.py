"""If these failed, the report would state intervals that the samples do not support."""

import numpy as np
import pytest
from scipy import stats

from harness.analysis import intervals
from harness.results.records.estimates import Mean, Median, Ratio


def test_mean_has_the_t_interval():
    value = intervals.mean([1.0, 2.0, 4.0])
    assert value.mean == pytest.approx(7 / 3)
    # by hand: s = sqrt(7/3), t(0.975, 2) = 4.302653, half = t * s / sqrt(3)
    half = 4.302652729911275 * np.sqrt(7 / 3) / np.sqrt(3)
    assert value.ci95 == pytest.approx((7 / 3 - half, 7 / 3 + half))
    assert value.ci95 == pytest.approx(
        stats.ttest_1samp([1.0, 2.0, 4.0], 0).confidence_interval(0.95)
    )
    assert value.n == 3


def test_one_value_has_no_interval():
    assert intervals.mean([1.5]) == Mean(mean=1.5, ci95=None, n=1)


def test_differences_are_of_the_seeds_that_both_have():
    variant = {0: 1.0, 1: 2.5, 2: 9.0}
    baseline = {1: 2.0, 0: 1.2, 7: 0.0, 8: 0.0}
    assert list(intervals.paired_differences(variant, baseline)) == [0, 1]
    difference = intervals.mean_difference(variant, baseline)
    assert difference.mean == pytest.approx((-0.2 + 0.5) / 2)  # variant minus baseline
    assert difference.n == 2
    expected = stats.ttest_rel([1.0, 2.5], [1.2, 2.0]).confidence_interval(0.95)
    assert difference.ci95 == pytest.approx(expected)


def test_without_a_common_seed_there_is_no_difference():
    assert intervals.mean_difference({0: 1.0}, {1: 1.0}) is None


def test_noise_that_seeds_share_cancels_in_pairs():
    shared = np.random.default_rng(1).normal(0, 10, 5)
    difference = intervals.mean_difference(dict(enumerate(shared + 0.3)), dict(enumerate(shared)))
    low, high = difference.ci95
    assert low == pytest.approx(0.3) and high == pytest.approx(0.3)


@pytest.mark.parametrize("n", [40, 41])
def test_median_interval_is_that_of_the_plain_bootstrap(n):
    samples = np.random.default_rng(2).lognormal(0, 0.5, n)
    value = intervals.median([samples])
    assert value.median == np.median(samples)
    rng = np.random.default_rng(3)
    plain = np.median(samples[rng.integers(0, n, (20_000, n))], axis=1)
    ours = intervals._resampled_medians([samples], np.random.default_rng(4))
    assert stats.ks_2samp(ours, plain).pvalue > 1e-3
    spread = np.diff(np.quantile(plain, (0.025, 0.975)))[0]
    assert value.ci95 == pytest.approx(np.quantile(plain, (0.025, 0.975)), abs=0.15 * spread)


def test_median_interval_resamples_seeds_before_steps():
    """Steps that hardly vary must not hide that whole runs differ."""
    steps = np.random.default_rng(5).normal(0, 1e-3, 100)
    runs = [1.0 + steps, 1.1 + steps, 1.2 + steps]
    rng = np.random.default_rng(6)
    picks = rng.integers(0, 3, (4000, 3))
    plain = [np.median([runs[s][rng.integers(0, 100, 100)] for s in pick]) for pick in picks]
    low, high = intervals.median(runs).ci95
    assert (low, high) == pytest.approx(tuple(np.quantile(plain, (0.025, 0.975))), abs=2e-3)
    assert low < 1.01 and high > 1.19


def test_median_of_one_and_of_two_samples():
    assert intervals.median([np.array([2.0])]) == Median(median=2.0, ci95=(2.0, 2.0))
    assert intervals.median([np.array([1.0, 3.0])]) == Median(median=2.0, ci95=(1.0, 3.0))


def test_the_same_samples_give_the_same_interval():
    samples = [np.random.default_rng(7).normal(1, 0.1, 50)]
    assert intervals.median(samples) == intervals.median(samples)


def test_ratio_draws_the_seeds_of_both_together():
    """Seeds that are slow in both entries, since the machine was, must not blur their ratio."""
    noise = np.random.default_rng(8).normal(0, 1e-4, (2, 3, 200))
    speeds = np.array([[1.0], [2.0], [4.0]])
    ratio = intervals.ratio_of_medians(
        list(2 * speeds * (1 + noise[0])), list(speeds * (1 + noise[1]))
    )
    assert ratio.ratio == pytest.approx(2, rel=1e-3)
    assert ratio.ci95 == pytest.approx((2, 2), rel=1e-3)


def test_pareto_front_of_a_hand_case():
    points = [
        (10.0, 1.0),
        (20.0, 2.0),
        (15.0, 2.5),
        (10.0, 1.5),
        (30.0, 9.0),
        (20.0, 2.0),
        (5.0, 0.5),
        (29.0, 9.0),
    ]
    assert intervals.pareto(points) == [True, True, False, False, True, True, True, False]


def test_running_mean_is_centred_and_keeps_the_ends():
    assert intervals.running_mean(np.array([1.0, 2.0, 6.0, 8.0]), 3) == pytest.approx(
        [1.5, 3.0, 16 / 3, 7.0]
    )
    assert intervals.running_mean(np.array([1.0, 2.0]), 1) == pytest.approx([1.0, 2.0])


def test_ratio_interval_includes_variation_between_seeds():
    ratio = intervals.ratio_of_medians([np.full(50, x) for x in (1.0, 2.0, 3.0)], [np.ones(50)] * 3)
    assert ratio == Ratio(ratio=2.0, ci95=(1.0, 3.0))
