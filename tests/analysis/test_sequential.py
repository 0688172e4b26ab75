"""If these failed, looks at the results would raise the error rate of verdicts."""

import numpy as np
import pandas as pd
import pytest

from harness.analysis import families
from harness.analysis.families import Untested
from harness.analysis.looks import levels
from harness.analysis.sequential import intersection, replay, replay_values
from harness.analysis.significance import ALPHA, holm_adjust
from harness.results.records import Look
from harness.results.records.comparisons import SignificanceResult
from harness.results.records.estimates import Difference

COUNTS = (3, 5, 8, 12)


def looks(counts=COUNTS, has_end=True):
    pairs = zip(counts, levels(len(counts), has_end), strict=True)
    return [Look(seeds=list(range(n)), level=level) for n, level in pairs]


def family(seed, effects, n=12, noise=1.0):
    rng = np.random.default_rng(seed)
    names = ["base", *(f"e{i}" for i in range(len(effects)))]
    noisy = noise * rng.standard_normal((n, len(names)))
    return pd.DataFrame(noisy + np.array([0.0, *effects]), columns=names)


@pytest.mark.parametrize("n", [1, 2, 4, 50])
def test_the_levels_of_all_looks_are_at_most_the_error_rate(n):
    for has_end in (True, False):
        found = levels(n, has_end)
        assert len(found) == n
        assert sum(found) <= ALPHA + 1e-12
    assert levels(4, has_end=True) == [0.0125] * 4
    assert levels(3, has_end=False) == pytest.approx([0.025, 0.05 / 6, 0.05 / 12])


def test_a_single_look_is_the_test_of_the_family():
    values = family(0, [3.0, 0.0, -2.0])
    expected = families.test_family(values, "base", 0.5).results
    assert replay_values(values, "base", looks([12]), 0.5) == expected


class PlannedVerdicts:
    """Gives planned verdicts in place of tests, and keeps what it was asked."""

    def __init__(self, **verdicts):
        self.verdicts = verdicts
        self.asked = []

    def __call__(self, names, seeds, level, untested):
        number = len(self.asked)
        self.asked.append((names, len(seeds), level, untested))
        return {name: result(self.verdicts[name][number]) for name in names}


def result(verdict, bounds=(-1.0, 1.0), mean=0.0, **more):
    bounds = (0.5, 1.5) if verdict in ("better", "worse") else bounds
    mean = 1.0 if verdict in ("better", "worse") else mean
    return SignificanceResult(
        verdict=verdict,
        method="two keys",
        difference=Difference(mean=mean, ci95=bounds, n=3),
        p_adjusted=0.01,
        **more,
    )


def test_a_verdict_is_that_of_the_first_look_that_has_one():
    test = PlannedVerdicts(
        a=["better", "unresolved", "unresolved"],
        b=["unresolved", "equivalent", "worse"],
        c=["unresolved", "unresolved", "worse"],
    )
    seeds = dict.fromkeys("abc", range(8))
    results = replay(seeds, looks([3, 5, 8]), test)
    assert {name: (found.verdict, found.look) for name, found in results.items()} == {
        "a": ("better", 1),
        "b": ("equivalent", 2),
        "c": ("worse", 3),
    }
    names = [names for names, *_ in test.asked]
    assert names == [["a", "b", "c"], ["b", "c"], ["c"]]
    assert [n for _, n, *_ in test.asked] == [3, 5, 8]
    assert {level for _, _, level, _ in test.asked} == {ALPHA / 3}


def test_entries_that_stopped_without_a_rejection_count_further():
    test = PlannedVerdicts(
        a=["better"], b=["equivalent"], c=["unresolved"], d=["unresolved", "unresolved"]
    )
    seeds = {"a": range(3), "b": range(3), "c": range(3), "d": range(5)}
    replay(seeds, looks([3, 5]), test)
    names, _, _, untested = test.asked[1]
    assert names == ["d"]
    assert untested == Untested(different=2, equivalent=2, entries=3)  # b and c; a and c


def test_p_values_are_those_of_the_error_rate_over_looks():
    found = replay({"a": range(3)}, looks([3, 5]), PlannedVerdicts(a=["better"]))["a"]
    assert found.p_adjusted == pytest.approx(0.02)


def test_hypotheses_that_were_not_rejected_cost_power():
    values = family(1, [1.0, 2.0])
    more = Untested(different=15, equivalent=15, entries=15)
    alone = families.test_family(values, "base", 3.0).results
    among = families.test_family(values, "base", 3.0, untested=more).results
    for name in ("e0", "e1"):
        low, high = among[name].difference.ci95
        own_low, own_high = alone[name].difference.ci95
        assert low < own_low and own_high < high
        assert among[name].p_equivalent > alone[name].p_equivalent
    assert among["e0"].p_adjusted > alone["e0"].p_adjusted
    faint = family(1, [0.1, 0.2])
    alone = families.test_family(faint, "base", None).results["e0"]
    among = families.test_family(faint, "base", None, untested=more).results["e0"]
    assert among.seeds_to_resolve > alone.seeds_to_resolve
    differences = {"a": [0.21, 0.2, 0.22], "b": [0.0, 0.2, -0.1]}
    alone = families.test_differences(differences, 1.0).results
    among = families.test_differences(differences, 1.0, untested=more).results
    assert among["a"].p_adjusted == pytest.approx(alone["a"].p_adjusted / 2 * 17)
    assert holm_adjust({"a": 0.001, "b": 0.002}, 8) == pytest.approx({"a": 0.01, "b": 0.018})


def test_intervals_are_the_intersection_over_looks():
    assert intersection([(-1.0, 2.0), (0.5, 3.0)]) == (0.5, 2.0)
    assert intersection([(-1.0, 0.0), (0.5, 3.0)]) is None
    bounds = iter([(-3.0, 1.0), (-1.0, 2.0), (-5.0, -1.5)])
    means = iter([-1.0, 0.5, -3.0])

    def test(names, seeds, level, untested):
        return {"a": result("unresolved", next(bounds), next(means))}

    seeds = {"a": range(8)}
    assert replay(seeds, looks([3, 5]), test)["a"].difference.ci95 == (-1.0, 1.0)
    bounds = iter([(-3.0, 1.0), (-0.5, 6.0)])
    means = iter([-1.0, 2.5])
    # The mean is in the interval that is shown.
    assert replay(seeds, looks([3, 5]), test)["a"].difference.ci95 == (-0.5, 6.0)


def test_no_unresolved_interval_over_looks_is_within_the_margin():
    """The shared interval would say equivalent; that of the last look does not."""
    for margin, expected in ((None, (-1.0, 1.0)), (1.0, (-1.0, 1.0)), (1.1, (-1.0, 3.0))):
        bounds = iter([(-3.0, 1.0), (-1.0, 3.0)])

        def test(names, seeds, level, untested, bounds=bounds):
            return {"a": result("unresolved", next(bounds))}

        found = replay({"a": range(8)}, looks([3, 5]), test, {"a": margin})["a"]
        assert found.difference.ci95 == expected


def test_verdicts_and_intervals_agree_over_looks():
    seen = set()
    for seed in range(60):
        values = family(seed, [0.0, 0.8, 2.0, -4.0])
        for found in replay_values(values, "base", looks(), 1.2).values():
            low, high = found.difference.ci95
            assert low <= found.difference.mean <= high
            if found.verdict in ("better", "worse"):
                assert low >= 0 or high <= 0
                assert found.p_adjusted < ALPHA
            elif found.verdict == "unresolved":
                assert low < 0 < high
                assert found.look == len(COUNTS)
            seen.add(found.verdict)
    assert seen == {"better", "worse", "equivalent", "unresolved"}
