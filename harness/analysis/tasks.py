"""Metrics of the tasks of lm-eval for each entry, compared with the baseline.

Differences are paired by seed, and by example if the metric is a mean over examples (see
`crossed`). The entries of a context that have a metric of a task are tested together (see `holm`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis import crossed, hypotheses, intervals, lost_seeds
from harness.analysis.crossed import SampledDifference
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.holm import test_estimates
from harness.analysis.sequential import at_error_rate
from harness.analysis.significance import FloatArray
from harness.results.records import TaskRecord
from harness.results.records.comparisons import SignificanceResult
from harness.results.records.entries import TaskScore
from harness.results.records.estimates import Difference
from harness.results.run_data import ExampleValues

Metric = tuple[str, str]  # task and name

REASON = "the differences have the noise of examples as well"
OTHER_EXAMPLES = "no example is that of the baseline, by its content: the scores are not compared"
NO_EXAMPLES = "a run has no values by example"
DIVERGES = "it or its baseline diverges from the single-process run"
ONE_SEED = "there is one seed"
EQUAL_SEEDS = "the difference is equal in every seed"
EQUAL_EXAMPLES = "fewer than two examples differ, or all equally"


@dataclass(frozen=True)
class _Comparison:
    """A metric of an entry, and its difference from the baseline; None without one to test."""

    entry: Entry
    base: Entry | None
    score: TaskScore
    difference: SampledDifference | None


def scores(study: StudyResults, diverging: Collection[str] = ()) -> dict[str, list[TaskScore]]:
    """Return each entry's metrics by its label; empty lists if the study evaluates no tasks.

    Entries that are `diverging` (by label) are not tested.
    """
    found = {
        entry.label: [_compare(study, entry, metric) for metric in _metrics(entry)]
        for entry in study.entries
    }
    families: dict[tuple[str, bool, Metric], list[_Comparison]] = {}
    tested: dict[tuple[str, Metric], TaskScore] = {}
    for comparison in (comparison for rows in found.values() for comparison in rows):
        entry = comparison.entry
        base = comparison.base
        metric = (comparison.score.task, comparison.score.metric)
        if base is None or comparison.difference is None or comparison.score.repeats:
            continue
        if entry.label in diverging or base.label in diverging:
            untested = comparison.score.model_copy(update={"not_tested": DIVERGES})
            tested[entry.label, metric] = untested
            continue
        key = (study.context_name(entry), hypotheses.is_copy(entry, base), metric)
        families.setdefault(key, []).append(comparison)
    for (_, _, metric), family in families.items():
        for label, score in _test(family, study.level).items():
            tested[label, metric] = score
    return {
        label: [tested.get((label, (row.score.task, row.score.metric)), row.score) for row in rows]
        for label, rows in found.items()
    }


def _metrics(entry: Entry) -> list[Metric]:
    metrics: dict[Metric, None] = {}
    for run in entry.done:
        for record in run.probes.tasks if run.probes else ():
            metrics[record.task, record.metric] = None
    return list(metrics)


def _compare(study: StudyResults, entry: Entry, metric: Metric) -> _Comparison:
    """Return a metric of an entry with its difference from the baseline, which is not tested."""
    base = study.baseline_of(entry)
    records = _records(entry, metric)
    values = _values(records)
    reasons = {record.reason for record in records.values() if record.reason}
    task, name = metric
    score = TaskScore(
        task=task,
        metric=name,
        seeds=list(values),
        value=lost_seeds.mean(entry, list(values.values())) if values else None,
        difference=None,
        higher_is_better=next(iter(records.values())).higher_is_better,
        examples=max(record.examples for record in records.values()),
        not_by_example=next((r.not_by_example for r in records.values() if r.not_by_example), None),
        reason="; ".join(sorted(reasons)) or None,
    )
    if base is None:
        return _Comparison(entry, None, score, None)
    by_seed = intervals.paired_differences(values, _values(_records(base, metric)))
    if not by_seed:
        return _Comparison(entry, base, score, None)
    by_example = _by_example(entry, base, metric, list(by_seed))
    if by_example is None:
        sampled = crossed.over_seeds(list(by_seed.values()))
        mean = float(np.mean(list(by_seed.values())))
        update: dict[str, object] = {"not_by_example": score.not_by_example or NO_EXAMPLES}
        untested = ONE_SEED if len(by_seed) == 1 else EQUAL_SEEDS
    elif not by_example.size:
        no_pairs = {"not_by_example": OTHER_EXAMPLES, "examples_paired": 0}
        return _Comparison(entry, base, score.model_copy(update=no_pairs), None)
    else:
        sampled = crossed.over_examples(by_example)
        mean = float(by_example.mean())
        update = {"examples_paired": by_example.shape[1], "not_by_example": None}
        untested = EQUAL_EXAMPLES
    repeated = hypotheses.repeated(study, entry)
    update["repeats"] = repeated.label if repeated else None
    update["not_tested"] = untested if sampled is None else None
    update["difference"] = Difference(mean=mean, ci95=None, n=len(by_seed))
    return _Comparison(entry, base, score.model_copy(update=update), sampled)


def _records(entry: Entry, metric: Metric) -> dict[int, TaskRecord]:
    """Return the record of a metric of each run that has it, by seed."""
    records = {}
    for run in entry.done:
        for record in run.probes.tasks if run.probes else ():
            if (record.task, record.metric) == metric:
                records[run.seed] = record
    return records


def _values(records: Mapping[int, TaskRecord]) -> dict[int, float]:
    return {seed: record.value for seed, record in records.items() if record.value is not None}


def _by_example(
    entry: Entry, base: Entry, metric: Metric, seeds: Sequence[int]
) -> FloatArray | None:
    """Return entry minus baseline by seed and example, (n_seeds, n_examples); None without values.

    The examples are those that all runs have, by the hash of the document; the i-th of several
    equal documents is paired with the i-th.
    """
    runs: list[ExampleValues] = []
    for side in (entry, base):
        by_seed = {run.seed: run.examples.get(metric) for run in side.done}
        for seed in seeds:
            values = by_seed[seed]
            if values is None:
                return None
            runs.append(values)
    first = runs[0].document
    if all(np.array_equal(values.document, first) for values in runs):
        aligned = [values.value for values in runs]
    else:
        positions = [_positions(values) for values in runs]
        keys = sorted(set.intersection(*map(set, positions)))
        aligned = []
        for values, position in zip(runs, positions, strict=True):
            aligned.append(values.value[[position[key] for key in keys]])
    n = len(seeds)
    return np.stack(aligned[:n]) - np.stack(aligned[n:])


def _positions(values: ExampleValues) -> dict[tuple[int, int], int]:
    """Return the position of each example by its hash and the number of equal ones before it."""
    seen: dict[int, int] = {}
    positions = {}
    for position, document in enumerate(values.document.tolist()):
        positions[document, seen.get(document, 0)] = position
        seen[document] = seen.get(document, 0) + 1
    return positions


def _test(family: Sequence[_Comparison], level: float) -> dict[str, TaskScore]:
    """Return the scores of a family with their tests, by the label of the entry."""
    differences: dict[str, SampledDifference] = {}
    lost = {}
    for comparison in family:
        if comparison.difference is not None and comparison.base is not None:
            label = comparison.entry.label
            differences[label] = comparison.difference
            lost[label] = (comparison.entry.lost_seeds, comparison.base.lost_seeds)
    test = test_estimates(
        differences,
        "Holm",
        REASON,
        lower_is_better=family[0].score.higher_is_better is False,
        alpha=level,
        lost=lost,
    )
    return {
        comparison.entry.label: _tested(
            comparison,
            differences[comparison.entry.label],
            at_error_rate(test.results[comparison.entry.label], level),
            len(differences),
        )
        for comparison in family
    }


def _tested(
    comparison: _Comparison,
    difference: SampledDifference,
    result: SignificanceResult,
    n_comparisons: int,
) -> TaskScore:
    """Return a score with its test; without a verdict if it is unknown which values are better."""
    shown = result.difference
    verdict = result.verdict
    if comparison.score.higher_is_better is None:
        verdict = None
        if result.lost_seeds:
            shown = shown.model_copy(update={"ci95": None})
    return comparison.score.model_copy(
        update={
            "difference": shown,
            "verdict": verdict,
            "over": difference.over,
            "p": difference.p,
            "p_adjusted": result.p_adjusted,
            "se_seeds": difference.se_seeds,
            "se_examples": difference.se_examples,
            "n_comparisons": n_comparisons,
        }
    )
