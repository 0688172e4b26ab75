"""Test the entries of a family that have no common seeds with their baseline.

They have their part of the family's error rate: of m entries, u of them unpaired, these are tested
at the level alpha u / m by Holm's method (1979), the others at alpha (m - u) / m by the rule of
`families`. Both parts together then keep alpha (Bonferroni), and the paired entries keep their
power. All functions are pure functions of numbers.
"""

import math
from collections.abc import Collection, Mapping

from harness.analysis import power, significance
from harness.analysis.families import NO_MARGINS, NO_PAIRS_LOST, FamilyTest
from harness.analysis.significance import ALPHA
from harness.analysis.verdicts import decide, without_gains
from harness.analysis.welch import UnpairedDifference
from harness.results.records.comparisons import SignificanceResult, TestFamily
from harness.results.records.estimates import Difference

REASON = "fewer than two seeds are common with the baseline, so the comparison is unpaired"


def test_unpaired(
    differences: Mapping[str, UnpairedDifference],
    margin: float | None,
    lower_is_better: bool = True,
    *,
    alpha: float = ALPHA,
    margins: Mapping[str, float | None] = NO_MARGINS,
    lost: Mapping[str, tuple[Collection[int], Collection[int]]] = NO_PAIRS_LOST,
) -> FamilyTest:
    """Test each unpaired difference by Welch's test, adjusted by Holm (1979).

    `lost` has the failed seeds of each entry and of its baseline.
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
            method="Welch",
            difference=Difference(mean=found.mean, ci95=bounds, n=found.n),
            own95=found.interval(ALPHA),
            p=found.p,
            p_adjusted=adjusted[name],
            p_bh=p_bh[name],
            p_equivalent=None if own_margins[name] is None else adjusted_equivalent[name],
            seeds_to_resolve=_seeds(found, own_margins[name], len(differences), alpha)
            if verdict == "unresolved"
            else None,
        )
    family = TestFamily(
        method="Welch",
        reason=REASON,
        entries=list(differences),
        n_seeds=max((found.n for found in differences.values()), default=0),
        alpha=alpha,
    )
    return FamilyTest(without_gains(results, lost), family)


def _seeds(
    found: UnpairedDifference, margin: float | None, n_comparisons: int, alpha: float
) -> int | None:
    """Return the seeds on each side that resolve a difference, about as of a paired test."""
    noise = power.Noise(found.se * math.sqrt(found.n), max(1, int(found.df)))
    needed = power.seeds_to_resolve(
        found.mean, noise, found.n, n_comparisons, margin, alpha, rule="Holm"
    )
    return needed.seeds if needed else None


test_unpaired.__test__ = False  # type: ignore[attr-defined]  # not a test of pytest
