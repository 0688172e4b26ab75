"""If these failed, entries without common seeds would get verdicts that are too often false."""

from dataclasses import replace

import numpy as np
import pytest
from reported import written
from scipy import stats

from harness.analysis import summary
from harness.analysis.significance import ALPHA, holm_adjust
from harness.analysis.unpaired import test_unpaired
from harness.analysis.verdicts import excludes_zero
from harness.analysis.welch import MAX_DF, UnpairedDifference, welch

# Two samples of Welch (1947) style, by hand: means 12 and 10, variances 4 and 1.
A = [10.0, 12.0, 14.0]
B = [9.0, 10.0, 11.0]


def test_a_case_by_hand():
    """var/n: 4/3 and 1/3; se = sqrt(5/3); df = (5/3)^2 / ((16/9)/2 + (1/9)/2) = 50/17."""
    found = welch(A, B)
    assert found.mean == pytest.approx(2.0)
    assert found.se == pytest.approx(np.sqrt(5 / 3))
    assert found.satterthwaite_df == pytest.approx(50 / 17)
    assert found.n == 3


@pytest.mark.parametrize("sizes", [(10, 10), (12, 15), (30, 30)])
def test_many_seeds_give_the_textbook_test(sizes):
    """scipy's test is the textbook's: no cap on the degrees of freedom applies here."""
    rng = np.random.default_rng(sizes)
    values = 3 * rng.standard_normal(sizes[0]) + 1
    base_values = rng.standard_normal(sizes[1])
    found = welch(values, base_values)
    expected = stats.ttest_ind(values, base_values, equal_var=False)
    assert found.satterthwaite_df == pytest.approx(expected.df)
    if found.df == found.satterthwaite_df:
        assert found.p == pytest.approx(expected.pvalue)
        low, high = expected.confidence_interval(0.95)
        assert found.interval() == pytest.approx((low, high))
    else:
        assert found.p > expected.pvalue


def test_equivalence_is_two_one_sided_tests():
    found = UnpairedDifference(mean=-0.1, se=0.05, satterthwaite_df=9.0, df=9.0, n=6)
    assert found.p_equivalent(0.3) == pytest.approx(stats.t.sf(0.2 / 0.05, 9))
    assert found.p_equivalent(0.1) == pytest.approx(0.5)
    assert found.p_equivalent(None) == 1.0


def test_p_and_interval_agree():
    rng = np.random.default_rng(0)
    for _ in range(200):
        found = welch(rng.standard_normal(3) + 2, rng.standard_normal(4))
        for alpha in (0.05, 0.01):
            low, high = found.interval(alpha)
            assert (found.p < alpha) == (low > 0 or high < 0)


@pytest.mark.parametrize("values", [[1.0], [], [2.0, 2.0]])
def test_one_observation_gives_no_test(values):
    """Values equal across seeds are one observation: there is no noise to compare with."""
    assert welch(values, [1.0, 1.0]) is None
    assert welch([1.0, 1.0], values) is None


def test_one_side_may_be_constant():
    found = welch([1.0, 1.0, 1.0], [0.0, 0.1, 0.2])
    assert found.satterthwaite_df == pytest.approx(2.0)
    assert found.df == pytest.approx(2.0)


def many(rng, n, sd, repetitions, n_entries=1):
    return sd * rng.standard_normal((repetitions, n_entries, n))


def family_error(n, n_base, sd_first, sd_base, n_entries, repetitions=20_000):
    """Return the rate of studies without effects in which Holm rejects any comparison.

    The statistics are written again here, over all studies at once.
    """
    rng = np.random.default_rng([n, n_base, n_entries])
    values = many(rng, n, 1.0, repetitions, n_entries)
    values[:, 0] *= sd_first
    base = many(rng, n_base, sd_base, repetitions)
    variance = values.var(axis=2, ddof=1) / n
    base_variance = base.var(axis=2, ddof=1) / n_base
    total = variance + base_variance
    df = total**2 / (variance**2 / (n - 1) + base_variance**2 / (n_base - 1))
    df = np.minimum(df, MAX_DF * (min(n, n_base) - 1))
    t = np.abs(values.mean(axis=2) - base.mean(axis=2)) / np.sqrt(total)
    smallest = (2 * stats.t.sf(t, df)).min(axis=1)
    return float((smallest < ALPHA / n_entries).mean())


@pytest.mark.parametrize("n_entries", [2, 5, 17])
@pytest.mark.parametrize("seeds", [(2, 10), (3, 3), (3, 10), (5, 5), (10, 3)])
def test_family_wise_error(seeds, n_entries):
    """At most 6 % with equal noise, 7.5 % where one entry or the baseline has five times as much.

    The degrees of freedom of the textbook give 31 % with (2, 10) seeds and 17 entries.
    """
    n, n_base = seeds
    assert family_error(n, n_base, 1.0, 1.0, n_entries) <= 0.06
    assert family_error(n, n_base, 5.0, 1.0, n_entries) <= 0.075
    assert family_error(n, n_base, 1.0, 5.0, n_entries) <= 0.075


def test_the_simulated_statistic_is_the_tested_one():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((5, 3)) + 1
    base = rng.standard_normal(4)
    p = holm_adjust({i: welch(row, base).p for i, row in enumerate(values)})
    assert min(p.values()) == pytest.approx(5 * min(welch(row, base).p for row in values))


def test_intervals_cover_the_difference():
    rng = np.random.default_rng(2)
    for n, n_base, sd in [(3, 3, 1), (3, 10, 1), (5, 5, 5), (2, 10, 2)]:
        found = [
            welch(row, base)
            for row, base in zip(
                sd * rng.standard_normal((2000, n)),
                rng.standard_normal((2000, n_base)),
                strict=True,
            )
        ]
        covered = [low < 0 < high for low, high in (one.interval() for one in found)]
        assert np.mean(covered) > 0.925


def renumbered(study, entry, shift):
    """Return the study with other seeds of one entry."""

    def moved(run):
        return replace(run, spec=run.spec.model_copy(update={"seed": run.seed + shift}))

    entries = tuple(
        replace(found, runs=tuple(moved(run) for run in found.runs))
        if found.label == entry
        else found
        for found in study.entries
    )
    return replace(study, entries=entries)


@pytest.fixture
def study(fake, read_study):
    fake.axes = {"positional": ["learned", "rope", "alibi"]}
    fake.baseline = {"positional": "learned"}
    fake.seeds = tuple(range(6))
    return read_study(fake)


@pytest.mark.parametrize("shift", [6, 5])
def test_an_entry_without_two_common_seeds_is_unpaired(study, shift):
    """Its part of the error rate, and that of the other entry, are half of it each."""
    made = summary.summarize(renumbered(study, "rope", shift), "now")
    tests = made.metric_tests["val_loss"]
    assert {label: test.method for label, test in tests.entries.items()} == {
        "rope": "Welch",
        "alibi": "two keys",
    }
    by_label = {entry.label: entry for entry in made.study.entries}
    expected = welch(
        [run.final_loss for run in by_label["rope"].done],
        [run.final_loss for run in by_label["learned"].done],
    )
    result = tests.entries["rope"]
    assert result.difference.mean == pytest.approx(expected.mean)
    assert result.difference.n == 6
    assert result.difference.ci95 == pytest.approx(expected.interval(ALPHA / 2))
    assert {family.method: family.alpha for family in tests.families} == {
        "Welch": ALPHA / 2,
        "two keys": ALPHA / 2,
    }
    row = next(row for row in made.comparisons if row.entry == "rope")
    assert len(row.seeds) == 6 - shift
    assert row.val_loss_difference.ci95 == result.difference.ci95
    assert made.metric_tests["tokens_per_s"].entries["rope"].method == "Welch"


def test_two_common_seeds_are_paired(study):
    made = summary.summarize(renumbered(study, "rope", 4), "now")
    assert made.metric_tests["val_loss"].entries["rope"].difference.n == 2
    assert {test.method for test in made.metric_tests["val_loss"].entries.values()} == {"two keys"}


def test_unpaired_times_need_one_machine(study):
    """Runs that may not be compared in pairs may not be compared without pairs either."""

    def moved(run):
        return replace(run, env=run.env.model_copy(update={"host": "node-2"}))

    apart = renumbered(study, "rope", 6)
    entries = []
    for entry in apart.entries:
        runs = tuple(moved(run) for run in entry.runs) if entry.label == "rope" else entry.runs
        entries.append(replace(entry, runs=runs))
    made = summary.summarize(replace(apart, entries=tuple(entries)), "now")
    assert "rope" not in made.metric_tests["tokens_per_s"].entries
    assert made.metric_tests["val_loss"].entries["rope"].method == "Welch"


def test_verdicts_and_intervals_of_unpaired_entries_agree():
    rng = np.random.default_rng(5)
    for i in range(300):
        sizes = rng.integers(2, 8, size=2)
        shifts = rng.normal(0, 3, size=3)
        found = {
            str(j): welch(rng.standard_normal(sizes[0]) + shift, rng.standard_normal(sizes[1]))
            for j, shift in enumerate(shifts)
        }
        margin = None if i % 2 else 2.5
        for result in test_unpaired(found, margin).results.values():
            excludes = excludes_zero(result.difference.ci95)
            low, high = result.difference.ci95
            if result.verdict == "better":
                assert excludes and high <= 0
            elif result.verdict == "worse":
                assert excludes and low >= 0
            elif result.verdict == "equivalent":
                assert -margin <= low and high <= margin
            else:
                assert not excludes


def test_the_report_says_that_seeds_do_not_match(fake, no_figures):
    fake.axes = {"positional": ["learned", "rope"]}
    fake.baseline = {"positional": "learned"}
    fake.seeds = (0, 1, 2)
    fake.outcome = {f"rope-s{seed}": ("pending", None, None) for seed in (0, 1, 2)}
    fake.write()
    fake.seeds = (3, 4, 5)
    fake.outcome = {f"learned-s{seed}": ("pending", None, None) for seed in (3, 4, 5)}
    page, found, _ = written(fake.write())
    assert "the seeds do not match: the comparison is unpaired and needs more seeds: rope" in page
    assert "0 (+6 unpaired)" in page
    assert found["verdicts"]["val_loss"]["entries"]["rope"]["method"] == "Welch"
