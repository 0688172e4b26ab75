"""Superiority: whether an entry is better than the baseline by more than a stated threshold.

The interval that is shown decides: its coverage is simultaneous over the family, so that no further
correction is needed.
"""

from collections.abc import Mapping
from typing import TypeVar

from harness.results.records.comparisons import SignificanceResult, SuperiorityVerdict
from harness.results.records.estimates import Bounds

Result = TypeVar("Result", bound=SignificanceResult)


def judge(
    results: Mapping[str, Result], thresholds: Mapping[str, float | None], lower_is_better: bool
) -> dict[str, Result]:
    """Return the results with `superior`; thresholds are positive and in each result's unit."""
    judged = {}
    for label, result in results.items():
        threshold = thresholds.get(label)
        if threshold is None or result.verdict is None:
            judged[label] = result
            continue
        word = superior(result.difference.ci95, threshold, lower_is_better)
        judged[label] = result.model_copy(update={"superior": word})
    return judged


def superior(
    interval: Bounds | None, threshold: float, lower_is_better: bool
) -> SuperiorityVerdict:
    """Return whether the improvement exceeds a threshold; without an interval, unresolved."""
    if interval is None:
        return "unresolved"
    low, high = interval
    if lower_is_better:
        low, high = -high, -low
    if low > threshold:
        return "yes"
    return "no" if high <= threshold else "unresolved"
