"""If these failed, the report would state intervals that the samples do not support."""

import numpy as np
import pytest
from scipy import stats

from harness.analysis import intervals
from harness.results.records.estimates import Mean


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


def test_speed_is_the_geometric_mean_of_the_seeds_medians():
    value = intervals.median([np.array([1.0, 2.0, 9.0]), np.array([8.0, 8.0])])
    assert value.median == pytest.approx(4.0)  # of 2 and 8, however many steps each has
    # by hand: logs ln 2 and ln 8, s = ln 4 / sqrt 2, t(0.975, 1) = 12.706205, half = t ln 4 / 2
    half = 12.706204736432095 * np.log(4) / 2
    assert value.ci95 == pytest.approx((4 * np.exp(-half), 4 * np.exp(half)))
    times = intervals.rate(24, value)
    assert times.median == pytest.approx(6.0)
    assert times.ci95 == pytest.approx((24 / value.ci95[1], 24 / value.ci95[0]))


@pytest.mark.parametrize("n_steps", [1, 50, 5000])
def test_one_seed_has_no_interval_of_speed_however_many_steps(n_steps):
    steps = np.random.default_rng(2).lognormal(0, 0.5, (2, n_steps))
    value = intervals.median([steps[0]])
    assert value.median == pytest.approx(np.median(steps[0])) and value.ci95 is None
    assert intervals.rate(10, value).ci95 is None
    assert intervals.ratio_of_medians([steps[0]], [steps[1]]).ci95 is None
    assert intervals.ratio_of_unpaired_medians([steps[0]], [steps[1], steps[1]]).ci95 is None


def test_more_steps_do_not_narrow_an_interval_of_speed():
    runs = [np.array([1.0, 1.1, 1.2]), np.array([1.3, 1.4, 1.5]), np.array([1.2, 1.25, 1.3])]
    repeated = [np.repeat(run, 1000) for run in runs]
    assert intervals.median(repeated) == intervals.median(runs)


def test_ratio_pairs_the_seeds_of_both():
    """Seeds that are slow in both entries, since the machine was, must not blur their ratio."""
    noise = np.random.default_rng(8).normal(0, 1e-4, (2, 3, 200))
    speeds = np.array([[1.0], [2.0], [4.0]])
    ratio = intervals.ratio_of_medians(
        list(2 * speeds * (1 + noise[0])), list(speeds * (1 + noise[1]))
    )
    assert ratio.ratio == pytest.approx(2, rel=1e-3)
    assert ratio.ci95 == pytest.approx((2, 2), rel=1e-3)


def test_ratio_is_the_geometric_mean_of_the_seeds_ratios():
    ratio = intervals.ratio_of_medians([np.full(50, x) for x in (1.0, 2.0, 4.0)], [np.ones(50)] * 3)
    assert ratio.ratio == pytest.approx(2.0)
    expected = stats.ttest_1samp(np.log([1.0, 2.0, 4.0]), 0).confidence_interval(0.95)
    assert np.log(ratio.ci95) == pytest.approx(expected)


def test_unpaired_ratios_of_few_against_many_seeds_cover_the_truth():
    """The degrees of freedom of the textbook cover it in 90 % of studies."""
    rng = np.random.default_rng(5)
    n_covered = 0
    for _ in range(1000):
        few, many = (np.exp(0.02 * rng.standard_normal((n, 1))) for n in (2, 10))
        low, high = intervals.ratio_of_unpaired_medians(list(few), list(many)).ci95
        n_covered += low <= 1 <= high
    assert n_covered / 1000 > 0.935


def test_unpaired_ratio_has_the_interval_of_welch():
    over = [1.0, 2.0, 4.0, 5.0]
    under = [1.0, 1.1, 1.3]
    ratio = intervals.ratio_of_unpaired_medians(
        [np.full(9, x) for x in over], [np.full(5, x) for x in under]
    )
    test = stats.ttest_ind(np.log(over), np.log(under), equal_var=False)
    difference = np.log(over).mean() - np.log(under).mean()
    df = 1.5 * 2  # three seeds on the smaller side; Satterthwaite's are more
    assert test.df > df
    half = stats.t.ppf(0.975, df) * difference / test.statistic
    assert np.log(ratio.ci95) == pytest.approx([difference - half, difference + half])
    assert ratio.ratio == pytest.approx(stats.gmean(over) / stats.gmean(under))


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
