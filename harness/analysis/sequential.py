"""Verdicts of a study whose number of seeds depends on its results: error rates over all looks.

A *look* tests a family on the seeds that are complete. If seeds are added until a test rejects, and
each look has the level 0.05, the probability of a false verdict grows with every look: 16 % after
looks at 3, 5, 8, 12 and 20 seeds. Here the levels of all looks add up to at most 0.05, so that the
familywise error rate over all looks is at most 0.05 (Bonferroni; the equal split over K planned
looks is that of Pocock 1977, without his use of the correlation between looks).

A verdict is that of the first look that has one. Hypotheses that an earlier look has not rejected
count in the family of each later look, also those of entries that have stopped: entries stop
because of their results, so that the others are a selection.
All functions are pure functions of results.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from harness.analysis.families import NO_MARGINS, Untested, test_family
from harness.analysis.significance import ALPHA
from harness.analysis.verdicts import excludes_zero
from harness.results.records.comparisons import SignificanceResult, VerdictName
from harness.results.records.estimates import Bounds
from harness.results.records.looks import Look

if TYPE_CHECKING:
    import pandas as pd

SETTLED: Collection[VerdictName] = ("better", "worse", "equivalent")
DIFFERENT: Collection[VerdictName] = ("better", "worse")

# Tests these entries on these seeds at a level, in a family with further hypotheses.
TestLook = Callable[[list[str], list[int], float, Untested], Mapping[str, SignificanceResult]]


def replay(
    seeds: Mapping[str, Collection[int]],
    looks: Sequence[Look],
    test: TestLook,
    margins: Mapping[str, float | None] = NO_MARGINS,
) -> dict[str, SignificanceResult]:
    """Return the result of each entry of a family after these looks.

    `seeds` are those of each entry's runs that have ended, `margins` those of its equivalence. A
    look tests the entries that are not settled and have ended a seed that the looks before had not.
    """
    results: dict[str, SignificanceResult] = {}
    bounds: dict[str, list[Bounds | None]] = {name: [] for name in seeds}
    before: set[int] = set()
    for number, look in enumerate(looks, start=1):
        new = set(look.seeds) - before
        before |= new
        going = [
            name
            for name, own in seeds.items()
            if not (name in results and is_settled(results[name])) and not new.isdisjoint(own)
        ]
        if not going:
            continue
        others = [
            results[name] for name in results if name not in going and _was_tested(results[name])
        ]
        untested = Untested(
            different=sum(other.verdict not in DIFFERENT for other in others),
            equivalent=sum(other.verdict != "equivalent" for other in others),
            entries=len(others),
        )
        for name, result in test(going, look.seeds, look.level, untested).items():
            bounds[name].append(result.difference.ci95)
            margin = margins.get(name)
            results[name] = _at_look(result, bounds[name], number, look.level, margin)
    return results


def replay_values(
    values: "pd.DataFrame",
    baseline: str,
    looks: Sequence[Look],
    margin: float | None,
    lower_is_better: bool = True,
) -> dict[str, SignificanceResult]:
    """Return the result of each entry of a family from its values after these looks.

    `values` has a row for each seed and a column for each entry, the baseline's included; NaN where
    an entry was not asked for a seed.
    """

    def test(
        names: list[str], seeds: list[int], level: float, untested: Untested
    ) -> Mapping[str, SignificanceResult]:
        rows = values.loc[values.index.isin(seeds), [baseline, *names]]
        tested = test_family(
            rows, baseline, margin, lower_is_better, alpha=level, untested=untested
        )
        return tested.results

    ended = {
        str(name): list(values.index[values[name].notna()])
        for name in values.columns
        if name != baseline
    }
    return replay(ended, looks, test, dict.fromkeys(ended, margin))


def is_settled(result: SignificanceResult) -> bool:
    """Return whether more seeds would not change a result."""
    return result.verdict in SETTLED or result.seed_has_no_effect


def _was_tested(result: SignificanceResult) -> bool:
    return result.method not in (None, "exact")


def _at_look(
    result: SignificanceResult,
    bounds: Sequence[Bounds | None],
    number: int,
    level: float,
    margin: float | None,
) -> SignificanceResult:
    """Return a result with its look, the interval over all looks, and p-values at level 0.05.

    The interval of the look stays if the one over all looks would disagree with the verdict.
    """
    if level == ALPHA:  # the only look
        return result
    update: dict[str, object] = {"look": number}
    shared = intersection([own for own in bounds if own is not None])
    current = result.difference.ci95
    if current is not None and shared is not None:
        low, high = shared
        is_consistent = excludes_zero(shared) == excludes_zero(current)
        if result.verdict == "unresolved" and margin is not None:
            is_consistent = is_consistent and not (-margin < low and high < margin)
        if low <= result.difference.mean <= high and is_consistent:
            update["difference"] = result.difference.model_copy(update={"ci95": shared})
    return at_error_rate(result, level).model_copy(update=update)


def at_error_rate(result: SignificanceResult, level: float) -> SignificanceResult:
    """Return a result at a level with p-values that are comparable with the error rate `ALPHA`."""
    scaled = {}
    for name in ("p_adjusted", "p_equivalent"):
        p = getattr(result, name)
        scaled[name] = None if p is None else min(1.0, p * (ALPHA / level))
    return result.model_copy(update=scaled)


def intersection(bounds: Sequence[Bounds]) -> Bounds | None:
    """Return the values that are in all intervals; None if there are none."""
    if not bounds:
        return None
    low = max(own[0] for own in bounds)
    high = min(own[1] for own in bounds)
    return (low, high) if low <= high else None
