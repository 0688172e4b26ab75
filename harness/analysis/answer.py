"""The answer to the study's question: each candidate, what each level does, and what follows."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.analysis.candidates import Candidate, find_candidates
from harness.analysis.caveats import LEAKS, STAMPED, kinds_by_entry, shared_kinds
from harness.analysis.dataset import StudyResults
from harness.analysis.metrics import DIVERGES
from harness.results.records.answer import (
    Advice,
    AdviceKind,
    Answer,
    AnswerRow,
    AxisAnswer,
    Cost,
    LevelAnswer,
)
from harness.results.records.caveats import Caveat, CaveatKind
from harness.results.records.comparisons import (
    BaselineComparison,
    Cell,
    MetricTests,
    PooledResult,
    Quantity,
    SignificanceResult,
    VerdictName,
)
from harness.results.records.entries import EntryResult
from harness.results.records.estimates import Difference

BASELINE = "baseline"
LOST = "lost seeds"
NO_RESULTS = "no results"
NOT_TESTED = "not tested yet"
VISIBLE_CHANGE = 0.005  # a smaller change of a cost is neither stated nor a reason
DEPENDS = "depends on "
# An entry with one of these caveats is not recommended; the advice warns of it.
DISTRUSTED: Sequence[CaveatKind] = (
    "non-causal",
    "below-entropy",
    "lost-seeds",
    "unstable",
    "overfitting",
    "outdated",
    "other-budget",
    "other-precision",
    "not-compiled",
    "other-hardware",
    "shared-machine",
    "unplanned-look",
)
COSTS_ONLY: Sequence[CaveatKind] = ("not-compiled", "other-hardware", "shared-machine")
Advised = tuple[AdviceKind, list[str], CaveatKind | Literal["diverges"] | None]


@dataclass(frozen=True)
class Results:
    """The sources of the answer, by the label of the entry."""

    study: StudyResults
    entries: Mapping[str, EntryResult]
    comparisons: Mapping[str, BaselineComparison]
    tests: Mapping[Quantity, MetricTests]
    caveats: Mapping[str, list[CaveatKind]]
    shared: Collection[CaveatKind]  # caveats of all entries
    pooled: Mapping[Cell, PooledResult]  # by the labels on the asked axes


def find_answer(
    study: StudyResults,
    entries: Mapping[str, EntryResult],
    comparisons: Sequence[BaselineComparison],
    tests: Mapping[Quantity, MetricTests],
    caveats: Sequence[Caveat],
) -> Answer:
    """Return the answer from the results of the entries, their tests and their caveats."""
    by_entry = {row.entry: row for row in comparisons}
    pooled = {_asked(study, result.levels): result for result in tests["val_loss"].pooled}
    kinds = kinds_by_entry(caveats)
    shared = shared_kinds(caveats, entries.keys())
    results = Results(study, entries, by_entry, tests, kinds, shared, pooled)
    rows = []
    by_context: list[AnswerRow] = []
    for candidate in find_candidates(study):
        row = _row(results, candidate, pooled.get(_asked(study, candidate.main.axes)))
        rows.append(row)
        if depends_on_context(row):
            by_context += _rows_by_context(results, candidate)
    rows.sort(key=_rank)
    axes = [_axis(results, axis, rows) for axis in (rows[0].levels if rows else ())]
    advice = [
        Advice(kind=kind, entries=labels, caveat=caveat)
        for kind, labels, caveat in _advice(results, rows, by_context, caveats)
    ]
    return Answer(
        rows=rows,
        by_context=by_context,
        axes=[answer for answer in axes if answer.levels],
        advice=advice,
    )


def depends_on_context(row: AnswerRow) -> bool:
    """Return whether a candidate has no verdict because its difference depends on the context."""
    return (row.reason or "").startswith(DEPENDS)


def _rank(row: AnswerRow) -> tuple[bool, float]:
    """Return a sort key: the lowest difference first, rows without one last."""
    if row.against is None and row.reason == BASELINE:
        return False, 0.0
    return row.difference is None, row.difference.mean if row.difference else math.inf


# -- rows -----------------------------------------------------------------------------------------


def _rows_by_context(results: Results, candidate: Candidate) -> Iterator[AnswerRow]:
    """Yield a row for each context in which a candidate is tested."""
    for entry in candidate.entries:
        if entry.label in results.tests["val_loss"].entries:
            alone = Candidate(candidate.levels, (entry,), entry, entry.title)
            yield _row(results, alone, None)


def _row(results: Results, candidate: Candidate, pooled: PooledResult | None) -> AnswerRow:
    label = candidate.main.label
    labels = [entry.label for entry in candidate.entries]
    result = results.entries[label]
    comparison = results.comparisons.get(label)
    base = results.entries[comparison.against] if comparison else None
    test = pooled or results.tests["val_loss"].entries.get(label)
    kinds = [kind for entry in labels for kind in results.caveats.get(entry, [])]
    reason = _reason(results, candidate, comparison, test, kinds)
    shown = test if reason is None else None
    more_seeds = None
    bounds = None
    if shown is not None and shown.verdict == "unresolved":
        n_seeds = shown.difference.n
        more_seeds = _more(shown.seeds_to_resolve, n_seeds)
        if shown.seeds_to_resolve_ci95 is not None:
            low, high = shown.seeds_to_resolve_ci95
            bounds = (_more(low, n_seeds), _more(high, n_seeds))
    return AnswerRow(
        entry=label,
        title=candidate.title,
        levels=dict(candidate.levels),
        entries=labels,
        against=comparison.against if comparison else None,
        val_loss=result.val_loss,
        verdict=shown.verdict if shown else None,
        reason=reason,
        difference=_difference(comparison, shown, reason),
        unit=(comparison.loss_unit if comparison else None) or "nats per token",
        contexts=pooled.contexts if pooled and shown else [],
        more_seeds=more_seeds,
        more_seeds_ci95=bounds,
        tokens_per_s=_throughput(results, label, comparison),
        peak_memory=_memory(results, label, comparison),
        parameters=_parameters(result, base),
        caveats=list(dict.fromkeys(kinds)),
        stamps=[kind for kind in STAMPED if kind in kinds and kind not in results.shared],
    )


def _more(seeds: int | None, done: int) -> int | None:
    return None if seeds is None else max(1, seeds - done)


def _asked(study: StudyResults, labels: Mapping[str, str]) -> Cell:
    return tuple(labels[axis] for axis in study.asked)


def _reason(
    results: Results,
    candidate: Candidate,
    comparison: BaselineComparison | None,
    test: SignificanceResult | None,
    kinds: Collection[CaveatKind],
) -> str | None:
    """Return why a candidate has no verdict, None if it has one."""
    study = results.study
    if comparison is None:
        is_baseline = study.baseline_in_context(candidate.main) is candidate.main
        return BASELINE if is_baseline else "no baseline"
    if any(kind in LEAKS for kind in kinds):
        return "sees later tokens"
    if comparison.not_comparable:
        return f"not comparable: {comparison.not_comparable}"
    if not candidate.main.done:
        return NO_RESULTS
    if isinstance(test, PooledResult) and test.depends_on_context:
        return f"{DEPENDS}{' and '.join(study.contexts)}"
    if test is None:
        # The loss of an architecture is tested under the baseline's parallelism.
        return NOT_TESTED if comparison.seeds else "no common seed"
    if test.lost_seeds and test.difference.ci95 is None:
        return LOST
    if test.verdict is None:
        return "equal in every seed" if test.seed_has_no_effect else "single seed"
    return None


def _difference(
    comparison: BaselineComparison | None, test: SignificanceResult | None, reason: str | None
) -> Difference | None:
    """Return the difference to show: that of the test, or of a single seed without interval."""
    if test is not None:
        return test.difference
    if comparison is None or reason not in ("single seed", "equal in every seed"):
        return None
    return comparison.val_loss_difference or comparison.bits_per_byte_difference


def _throughput(results: Results, label: str, comparison: BaselineComparison | None) -> Cost:
    result = results.entries[label]
    reason = "diverges" if result.equivalence == DIVERGES else None
    if comparison is not None and reason is None:
        reason = comparison.speed_not_comparable
    speed = result.tokens_per_s
    ratio = comparison.tokens_per_s_ratio if comparison else None
    test = results.tests["tokens_per_s"].entries.get(label)
    change_ci95 = None
    if ratio is not None and ratio.ci95 is not None:
        change_ci95 = (ratio.ci95[0] - 1, ratio.ci95[1] - 1)
    return Cost(
        value=speed.median if speed else None,
        ci95=speed.ci95 if speed else None,
        change=ratio.ratio - 1 if ratio else None,
        change_ci95=change_ci95,
        verdict=test.verdict if test and ratio else None,
        reason=reason,
    )


def _memory(results: Results, label: str, comparison: BaselineComparison | None) -> Cost:
    ratio = comparison.peak_memory_ratio if comparison else None
    test = results.tests["peak_memory"].entries.get(label)
    return Cost(
        value=results.entries[label].peak_memory_bytes,
        change=None if ratio is None else ratio - 1,
        verdict=test.verdict if test and ratio is not None else None,
        reason=comparison.memory_not_comparable if comparison else None,
    )


def _parameters(result: EntryResult, base: EntryResult | None) -> Cost:
    change = None
    if base is not None and result.parameters and base.parameters:
        change = result.parameters / base.parameters - 1
    return Cost(value=result.parameters, change=change)


# -- levels ---------------------------------------------------------------------------------------


def _axis(results: Results, axis: str, rows: Sequence[AnswerRow]) -> AxisAnswer:
    """Return what each level of an axis does, alone or on average."""
    study = results.study
    base = study.baseline.get(axis, study.levels[axis][0])
    alone = {}
    for row in rows:
        changed = [name for name, label in row.levels.items() if label != study.baseline.get(name)]
        if changed == [axis]:
            alone[row.levels[axis]] = row.entry
    effects = {
        effect.levels[axis]: effect
        for effect in results.tests["val_loss"].main_effects
        if axis in effect.levels and effect.verdict
    }
    levels = []
    for label in study.levels[axis]:
        if label != base and (label in alone or label in effects):
            effect = effects.get(label) if label not in alone else None
            levels.append(LevelAnswer(level=label, entry=alone.get(label), effect=effect))
    return AxisAnswer(axis=axis, levels=levels)


# -- advice ---------------------------------------------------------------------------------------


def _advice(
    results: Results,
    rows: Sequence[AnswerRow],
    by_context: Sequence[AnswerRow],
    caveats: Sequence[Caveat],
) -> Iterator[Advised]:
    """Yield what follows from the verdicts; entries with a caveat are not recommended."""
    compared = [row for row in rows if row.reason != BASELINE]
    sound = [row for row in compared if not set(row.caveats) & _of_losses()]
    better = [row.entry for row in sound if verdict_in_all(row, by_context) == "better"]
    if better or any(verdict_in_all(row, by_context) for row in compared):
        yield "better", better, None
    cheaper = [row.entry for row in sound if row.verdict == "equivalent" and is_cheaper(row)]
    if cheaper:
        yield "cheaper", cheaper, None
    open_rows = [row.entry for row in compared if _is_open(row, by_context)]
    if open_rows:
        yield "unresolved", open_rows, None
    diverging = [
        label for label, result in results.entries.items() if result.equivalence == DIVERGES
    ]
    if diverging:
        yield "distrust", diverging, "diverges"
    for kind in DISTRUSTED:
        named = {caveat.entry: None for caveat in caveats if caveat.kind == kind}
        if named:
            yield "distrust", [entry for entry in named if entry], kind


def verdict_in_all(row: AnswerRow, by_context: Sequence[AnswerRow]) -> VerdictName | None:
    """Return a candidate's verdict: its own, or that of every context if they agree."""
    verdicts = {one.verdict for one in by_context if one.entry in row.entries}
    if depends_on_context(row) and len(verdicts) == 1:
        return verdicts.pop()
    return row.verdict


def _of_losses() -> set[CaveatKind]:
    return set(DISTRUSTED) - set(COSTS_ONLY)


def is_cheaper(row: AnswerRow) -> bool:
    """Return whether a cost is visibly lower, and none that is tested is visibly higher."""
    costs = (row.tokens_per_s, row.peak_memory)
    verdicts = [cost.verdict for cost in costs if abs(cost.change or 0.0) >= VISIBLE_CHANGE]
    fewer_parameters = (row.parameters.change or 0.0) <= -VISIBLE_CHANGE
    return "worse" not in verdicts and ("better" in verdicts or fewer_parameters)


def _is_open(row: AnswerRow, by_context: Sequence[AnswerRow]) -> bool:
    if depends_on_context(row):
        return verdict_in_all(row, by_context) in (None, "unresolved")
    return row.verdict == "unresolved" or row.reason in ("single seed", NO_RESULTS, NOT_TESTED)
