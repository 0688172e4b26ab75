"""The verdict of a test and the interval that agrees with it; verdicts if seeds were lost.

All functions are pure functions of results and numbers.
"""

from collections.abc import Collection, Mapping

from harness.analysis import significance
from harness.results.records.comparisons import SignificanceResult, VerdictName
from harness.results.records.estimates import Bounds

# fields that say nothing about an entry whose seeds are a selection
VOID = ("p_adjusted", "p_equivalent", "seeds_to_resolve", "seeds_to_resolve_ci95")


def decide(
    bounds: Bounds,
    p: float,
    p_equivalent: float,
    margin: float | None,
    lower_is_better: bool,
    alpha: float,
) -> tuple[VerdictName, Bounds]:
    """Return the verdict, and the simultaneous interval cut to the values that the verdict leaves.

    A later step of a step-down test may reject although the single-step interval contains 0, or
    reaches beyond the margin. The rejected values are then cut off, as in the intervals of
    Stefansson, Kim & Hsu (1988) for one-sided tests.
    """
    low, high = bounds
    center = (low + high) / 2
    if margin is not None and -margin < low and high < margin:
        return "equivalent", bounds
    verdict = significance.classify(center, p, p_equivalent, lower_is_better, alpha)
    if verdict == "equivalent" and margin is not None:
        return verdict, (max(low, -margin), min(high, margin))
    if verdict in ("better", "worse"):
        return verdict, ((max(low, 0.0), high) if center > 0 else (low, min(high, 0.0)))
    return verdict, bounds


def excludes_zero(bounds: Bounds | None) -> bool | None:
    """Return whether an interval excludes 0; None without one.

    Intervals are open: one that ends at 0 excludes it.
    """
    if bounds is None:
        return None
    low, high = bounds
    return (low >= 0 or high <= 0) and (low, high) != (0.0, 0.0)


def without_gains(
    results: Mapping[str, SignificanceResult],
    lost: Mapping[str, tuple[Collection[int], Collection[int]]],
) -> dict[str, SignificanceResult]:
    """Return the results without the verdicts that a side which lost seeds would gain.

    `lost` has the failed seeds of each entry and of its baseline. An entry that lost seeds is not
    better or equivalent; one whose baseline did is not worse or equivalent. Such an entry is
    unresolved and has no interval, adjusted p-value or number of seeds.
    """
    if len({frozenset(seeds) for sides in lost.values() for seeds in sides}) < 2:
        return dict(results)
    checked = {}
    for name, result in results.items():
        of_entry, of_baseline = lost.get(name, ((), ()))
        seeds = sorted({*of_entry, *of_baseline})
        gains: set[VerdictName | None] = {"unresolved"} if seeds else set()
        if of_entry:
            gains |= {"better", "equivalent"}
        if of_baseline:
            gains |= {"worse", "equivalent"}
        update: dict[str, object] = {"lost_seeds": seeds}
        if result.verdict in gains:
            difference = result.difference.model_copy(update={"ci95": None})
            update |= dict.fromkeys(VOID) | {"verdict": "unresolved", "difference": difference}
        checked[name] = result.model_copy(update=update)
    return checked
