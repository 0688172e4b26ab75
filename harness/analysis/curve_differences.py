"""Differences from the baseline along training, paired by seed, with a band for each evaluation.

The band at an evaluation is the interval that the entry's family of tests gives there: the same
method, level and number of comparisons as those of the verdict, with the noise of the losses at
this evaluation. It is simultaneous over the entries at each evaluation, and not over evaluations.
At the last evaluation it is the interval of the verdict, which may be cut to agree with it, or be
narrower because earlier looks count.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.families import half_widths
from harness.analysis.hypotheses import repeated
from harness.analysis.pairs import Pair, pair_of
from harness.results.records.comparisons import (
    LossUnit,
    MetricTests,
    SignificanceResult,
    TestFamily,
    TestMethod,
)
from harness.results.records.estimates import Bounds
from harness.results.run_data import RunData

MAX_POINTS = 120  # evaluations at which differences are computed

FloatArray = NDArray[np.float64]
ByAmount = dict[float, float]  # the loss by the steps or tokens of its evaluation


@dataclass(frozen=True)
class DifferenceCurve:
    """The mean of an entry's loss minus its baseline's, each array (n_points,).

    `x` are completed steps, or tokens. `low` and `high` are NaN where there is no band. A curve
    `ends_early` if the last evaluations, which the verdict compares, are at other steps.
    """

    entry: Entry
    base: Entry
    unit: LossUnit
    x: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray
    n_seeds: int
    ends_early: bool

    @property
    def has_band(self) -> bool:
        """Whether any point has an interval."""
        return bool(np.isfinite(self.low).any())


@dataclass(frozen=True)
class DifferenceCurves:
    """The curves, and why other entries have none, by label."""

    curves: list[DifferenceCurve]
    left_out: dict[str, str]


@dataclass(frozen=True)
class _Group:
    """Entries that were tested together at one look, with its seeds (None: all) and level.

    `n_comparisons` are those of the whole family.
    """

    baseline: str
    entries: tuple[str, ...]
    method: TestMethod
    seeds: frozenset[int] | None
    level: float
    n_more: int = 0

    @property
    def n_comparisons(self) -> int:
        return self.n_more or len(self.entries)


def find_differences(
    study: StudyResults, tests: MetricTests, entries: Sequence[Entry], by_tokens: bool
) -> DifferenceCurves:
    """Return the difference curve of each entry that is compared with a baseline."""
    family_of = {label: family for family in tests.families for label in family.entries}
    widths = _Widths(study, tests, by_tokens)
    curves = []
    left_out = {}
    for entry in entries:
        if study.baseline_of(entry) is None or not entry.done:
            continue
        pair = pair_of(study, entry, "val_loss")
        tested = repeated(study, entry) or entry
        result = tests.entries.get(tested.label) if tested is entry else None
        reason = _reason(study, pair)
        if pair is None or reason:
            left_out[entry.label] = reason
            continue
        found = _difference(pair, result, family_of.get(entry.label), widths, by_tokens)
        if found is None:
            left_out[entry.label] = "no evaluation at a step of the baseline's"
        else:
            curves.append(found)
    return DifferenceCurves(curves, left_out)


def _reason(study: StudyResults, pair: Pair | None) -> str:
    """Return why a pair has no differences by seed; empty if it has."""
    if pair is None:
        return "another text, on which losses are not comparable"
    if not pair.base.done:
        return "its baseline has no results"
    if not pair.differences() or pair.unpaired() is not None:
        return "too few seeds in common with the baseline"
    return ""


def _difference(
    pair: Pair,
    result: SignificanceResult | None,
    family: TestFamily | None,
    widths: "_Widths",
    by_tokens: bool,
) -> DifferenceCurve | None:
    group = widths.group(result, family)
    seeds = set(pair.differences())
    if group is not None and group.seeds is not None:
        seeds &= group.seeds
    own = losses_by_seed(pair.entry, pair.unit, seeds, by_tokens)
    base = losses_by_seed(pair.base, pair.unit, seeds, by_tokens)
    shared = sorted(set.intersection(*(set(seed) for seed in (*own.values(), *base.values()))))
    if not shared:
        return None
    kept = np.unique(np.linspace(0, len(shared) - 1, min(len(shared), MAX_POINTS)).round())
    x = [shared[int(i)] for i in kept]
    differences = np.array([[own[seed][at] - base[seed][at] for at in x] for seed in sorted(own)])
    mean = differences.mean(axis=0)
    half = np.full(len(x), np.nan)
    interval = None if result is None else result.difference.ci95
    if group is not None and interval is not None:
        half = widths.at(group, pair, x)
    low = mean - half
    high = mean + half
    last = {max(by_x) for by_x in (*own.values(), *base.values())}
    ends_early = len(last) > 1
    if interval is not None and not ends_early:
        low, high = at_verdict(low, high, interval)
    return DifferenceCurve(
        entry=pair.entry,
        base=pair.base,
        unit=pair.unit or "nats per token",
        x=np.array(x),
        mean=mean,
        low=low,
        high=high,
        n_seeds=len(seeds),
        ends_early=ends_early,
    )


def at_verdict(
    low: FloatArray, high: FloatArray, interval: Bounds
) -> tuple[FloatArray, FloatArray]:
    """Return a band that ends at the interval of the verdict."""
    return np.append(low[:-1], interval[0]), np.append(high[:-1], interval[1])


def losses_by_seed(
    entry: Entry, unit: LossUnit | None, seeds: set[int], by_tokens: bool
) -> dict[int, ByAmount]:
    """Return the loss of each of these seeds by steps or tokens, where it is a number."""
    return {run.seed: _losses(run, unit, by_tokens) for run in entry.done if run.seed in seeds}


def _losses(run: RunData, unit: LossUnit | None, by_tokens: bool) -> ByAmount:
    values = run.evals.bits_per_byte if unit == "bits per byte" else run.evals.val_loss
    amounts = run.tokens_at_evals if by_tokens else run.evals.step.astype(float)
    found = zip(amounts.tolist(), values.tolist(), strict=True)
    return {amount: value for amount, value in found if np.isfinite(value)}


class _Widths:
    """Half widths of the intervals of whole families, each evaluation computed once."""

    def __init__(self, study: StudyResults, tests: MetricTests, by_tokens: bool) -> None:
        self._tests = tests
        self._by_label = {entry.label: entry for entry in study.entries}
        self._looks = study.looks
        self._by_tokens = by_tokens
        self._losses: dict[tuple[str, LossUnit | None], dict[int, ByAmount]] = {}
        self._known: dict[tuple[object, float], dict[str, float]] = {}

    def group(self, result: SignificanceResult | None, family: TestFamily | None) -> _Group | None:
        """Return how an entry was tested; None if it was not, or not by paired differences."""
        if result is None or family is None or result.method not in ("two keys", "Holm"):
            return None
        labels = tuple(family.entries)
        looks = self._looks
        if looks is None or looks.is_fixed or result.look is None:
            return _Group(family.baseline, labels, result.method, None, family.alpha)
        share = family.alpha / looks.looks[self._last_look(family) - 1].level
        look = looks.looks[result.look - 1]
        going = tuple(label for label in labels if (self._look(label) or 0) >= result.look)
        seeds = frozenset(look.seeds)
        return _Group(family.baseline, going, result.method, seeds, look.level * share, len(labels))

    def _look(self, label: str) -> int | None:
        result = self._tests.entries.get(label)
        return result.look if result else None

    def _last_look(self, family: TestFamily) -> int:
        return max(self._look(label) or 1 for label in family.entries)

    def at(self, group: _Group, pair: Pair, x: Sequence[float]) -> FloatArray:
        """Return half of the interval of a pair's difference at each evaluation, (n_points,)."""
        shared = group.entries[0] if group.method == "two keys" else pair.label
        key = (group.baseline, group.method, group.level, shared)
        half = []
        for amount in x:
            if (key, amount) not in self._known:
                self._known[key, amount] = self._of_family(group, pair, amount)
            half.append(self._known[key, amount].get(pair.label, np.nan))
        return np.array(half)

    def _of_family(self, group: _Group, pair: Pair, amount: float) -> dict[str, float]:
        """Return the half width of each entry of the group that has a loss at this evaluation."""
        base = self._at(pair.base, pair.unit, amount)
        seeds = sorted(seed for seed in base if group.seeds is None or seed in group.seeds)
        columns = {}
        for label in group.entries if group.method == "two keys" else (pair.label,):
            found = self._at(self._by_label[label], pair.unit, amount)
            if found:
                columns[label] = [found.get(seed, np.nan) for seed in seeds]
        if not columns:
            return {}
        values = np.array([[base[seed] for seed in seeds], *columns.values()]).T
        half = half_widths(values, group.method, group.level, group.n_comparisons)
        return dict(zip(columns, half.tolist(), strict=True))

    def _at(self, entry: Entry, unit: LossUnit | None, amount: float) -> dict[int, float]:
        """Return the losses at an evaluation by seed; empty if one of them is missing."""
        key = (entry.label, unit)
        if key not in self._losses:
            seeds = {run.seed for run in entry.done}
            self._losses[key] = losses_by_seed(entry, unit, seeds, self._by_tokens)
        losses = self._losses[key]
        if any(amount not in by_amount for by_amount in losses.values()):
            return {}
        return {seed: by_amount[amount] for seed, by_amount in losses.items()}
