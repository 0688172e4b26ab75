"""Test the entries of a family that have no common seeds with their baseline.

They have their part of the family's error rate: of m entries, u of them unpaired, these are tested
at the level alpha u / m by Holm's method (1979), the others at alpha (m - u) / m by the rule of
`families`. Both parts together then keep alpha (Bonferroni), and the paired entries keep their
power. All functions are pure functions of numbers.
"""

import math
from collections.abc import Collection, Mapping

from harness.analysis import power
from harness.analysis.families import NO_MARGINS, NO_PAIRS_LOST, FamilyTest
from harness.analysis.holm import test_estimates
from harness.analysis.significance import ALPHA
from harness.analysis.welch import UnpairedDifference

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
    tested = test_estimates(
        differences,
        "Welch",
        REASON,
        margin,
        lower_is_better,
        alpha=alpha,
        margins=margins,
        lost=lost,
    )
    results = dict(tested.results)
    for name, result in results.items():
        if result.verdict == "unresolved" and result.difference.ci95 is not None:
            own_margin = margins.get(name, margin)
            needed = _seeds(differences[name], own_margin, len(differences), alpha)
            results[name] = result.model_copy(update={"seeds_to_resolve": needed})
    return FamilyTest(results, tested.family)


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
