"""Test differences with a known distribution each by its own test, adjusted by Holm (1979).

All functions are pure functions of numbers.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

from harness.analysis import significance
from harness.analysis.families import NO_MARGINS, NO_PAIRS_LOST, FamilyTest
from harness.analysis.significance import ALPHA
from harness.analysis.verdicts import decide, without_gains
from harness.results.records.comparisons import SignificanceResult, TestFamily, TestMethod
from harness.results.records.estimates import Bounds, Difference


class EstimatedDifference(Protocol):
    """A difference of `n` seeds, with tests and intervals that agree at every level."""

    @property
    def mean(self) -> float:
        """The difference."""

    @property
    def n(self) -> int:
        """The number of seeds."""

    @property
    def p(self) -> float:
        """The two-sided p-value of the test that the difference is 0."""

    def p_equivalent(self, margin: float | None) -> float:
        """Return the larger p-value of the one-sided tests against -margin and margin."""

    def interval(self, alpha: float = ALPHA) -> Bounds:
        """Return the interval that covers the true difference with probability 1 - alpha."""


def test_estimates(
    differences: Mapping[str, EstimatedDifference],
    method: TestMethod,
    reason: str,
    margin: float | None = None,
    lower_is_better: bool = True,
    *,
    alpha: float = ALPHA,
    margins: Mapping[str, float | None] = NO_MARGINS,
    lost: Mapping[str, tuple[Collection[int], Collection[int]]] = NO_PAIRS_LOST,
) -> FamilyTest:
    """Test each difference, adjusted by Holm; the intervals are simultaneous (Bonferroni).

    `reason` is why the rule of two keys does not hold. `lost` has the failed seeds of each entry
    and of its baseline.
    """
    own_margins = {name: margins.get(name, margin) for name in differences}
    p = {name: found.p for name, found in differences.items()}
    p_equivalent = {
        name: found.p_equivalent(own_margins[name]) for name, found in differences.items()
    }
    adjusted = significance.holm_adjust(p)
    adjusted_equivalent = significance.holm_adjust(p_equivalent)
    p_bh = significance.benjamini_hochberg_adjust(p)
    results = {}
    for name, found in differences.items():
        verdict, bounds = decide(
            found.interval(alpha / len(differences)),
            adjusted[name],
            adjusted_equivalent[name],
            own_margins[name],
            lower_is_better,
            alpha,
        )
        results[name] = SignificanceResult(
            verdict=verdict,
            method=method,
            difference=Difference(mean=found.mean, ci95=bounds, n=found.n),
            own95=found.interval(ALPHA),
            p=found.p,
            p_adjusted=adjusted[name],
            p_bh=p_bh[name],
            p_equivalent=None if own_margins[name] is None else adjusted_equivalent[name],
        )
    family = TestFamily(
        method=method,
        reason=reason,
        entries=list(differences),
        n_seeds=max((found.n for found in differences.values()), default=0),
        alpha=alpha,
    )
    return FamilyTest(without_gains(results, lost), family)


test_estimates.__test__ = False  # type: ignore[attr-defined]  # not a test of pytest
