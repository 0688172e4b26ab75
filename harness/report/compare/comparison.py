"""Compare two studies entry by entry, paired by seed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness.analysis import comparability, equivalence, machines, superiority
from harness.analysis.caveats import find_caveats
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.hypotheses import test_parts
from harness.analysis.metrics import (
    PARALLELISM,
    as_ratio,
    memory_ratio,
    speed_ratio,
)
from harness.analysis.pairs import LOSS_METRICS, METRICS, Pair, margin_of, superiority_of
from harness.report.compare import differences
from harness.report.compare.differences import FileDifference
from harness.report.compare.sources import Source
from harness.results.records.caveats import Caveat
from harness.results.records.comparisons import Quantity, SignificanceResult
from harness.results.records.estimates import Ratio
from harness.results.records.study_comparison import EntryPair, StudyComparison
from harness.results.run_data import RunData

# Two sides may be compared to see the effect of a version of software; a study may not mix them.
REASONS: Mapping[Quantity, machines.Reason] = {
    "tokens_per_s": machines.hardware_reason,
    "peak_memory": machines.device_reason,
}


def compare(a: Source, b: Source, created_at: str) -> tuple[StudyComparison, list[FileDifference]]:
    """Compare B with A, with the equivalence margins that B's study states.

    If seeds were added to a study because of its results, the level is that of its last look. The
    second value has the differences of the files of code.
    """
    matched = _matched_entries(a.study, b.study)
    diverging_in_a = equivalence.diverging(equivalence.check(a.study))
    diverging_in_b = equivalence.diverging(equivalence.check(b.study))
    sound = {
        label: (of_a, of_b)
        for label, (of_a, of_b) in matched.items()
        if of_a.label not in diverging_in_a and of_b.label not in diverging_in_b
    }
    level = min(a.study.level, b.study.level)
    verdicts = {
        metric: _verdicts(sound if metric == "tokens_per_s" else matched, metric, b.study, level)
        for metric in METRICS
    }
    first: dict[frozenset[tuple[str, str]], str] = {}
    pairs = []
    for label, (of_a, of_b) in matched.items():
        pair = _pair(label, of_a, of_b, verdicts, has_speed=label in sound)
        tested = first.setdefault(_architecture(of_b), label)
        repeats = None if tested == label else tested
        pairs.append(pair.model_copy(update={"repeats": repeats}))
    entries_of_a = [of_a for of_a, _ in matched.values()]
    entries_of_b = [of_b for _, of_b in matched.values()]
    code = differences.code(a, entries_of_a, b, entries_of_b)
    packages, packages_unknown = differences.packages(a, b)
    result = StudyComparison(
        a=a.label,
        b=b.label,
        created_at=created_at,
        pairs=pairs,
        only_in_a=_unmatched(a.study, entries_of_a),
        only_in_b=_unmatched(b.study, entries_of_b),
        settings_diff=differences.between(
            differences.settings_of(a.study), differences.settings_of(b.study)
        ),
        environment_diff=differences.between(
            differences.environment_of(a.study), differences.environment_of(b.study)
        ),
        packages_diff=packages,
        packages_unknown=packages_unknown,
        code_diff=[difference.file for difference in code.files],
        code_unknown=code.unknown,
        code_mixed=code.mixed,
        losses_comparable=all(pair.not_comparable is None for pair in pairs),
        margins=b.study.margins,
        superiority=b.study.superiority,
        caveats=_caveats(a, b, {of_a.label: label for label, (of_a, _) in matched.items()}),
        imported=[side.label for side in (a, b) if side.study.imported],
    )
    return result, code.files


def _caveats(a: Source, b: Source, b_label_of: Mapping[str, str]) -> list[Caveat]:
    """Return the caveats of both sides under B's labels of the entries."""
    caveats = []
    for side in (a, b):
        for caveat in find_caveats(side.study):
            if caveat.kind == "outdated":  # the code of both sides is compared
                continue
            entry = caveat.entry
            if side is a and entry is not None:
                entry = b_label_of.get(entry, entry)
            message = f"in {side.label}: {caveat.message}"
            caveats.append(caveat.model_copy(update={"entry": entry, "message": message}))
    return caveats


def _matched_entries(a: StudyResults, b: StudyResults) -> dict[str, tuple[Entry, Entry]]:
    """Return the entries with the same labels in both studies, by B's label.

    An axis that one study lacks matches the baseline's label of the other. Entries of studies
    without a common axis, as imported ones may be, match also by their names.
    """
    entries_of_a = {_distinct_labels(entry, a, b): entry for entry in a.entries}
    by_name = {} if a.levels.keys() & b.levels.keys() else {e.label: e for e in a.entries}
    matched = {}
    for entry in b.entries:
        labels = _distinct_labels(entry, b, a)
        if labels in entries_of_a:
            matched[entry.label] = (entries_of_a[labels], entry)
        elif entry.label in by_name:
            matched[entry.label] = (by_name[entry.label], entry)
    return matched


def _distinct_labels(
    entry: Entry, study: StudyResults, other: StudyResults
) -> frozenset[tuple[str, str]]:
    return frozenset(
        (axis, label)
        for axis, label in entry.axes.items()
        if axis in other.levels or label != study.baseline.get(axis)
    )


def _unmatched(study: StudyResults, matched: Sequence[Entry]) -> list[str]:
    labels = {entry.label for entry in matched}
    return [entry.label for entry in study.entries if entry.label not in labels]


def _verdicts(
    matched: Mapping[str, tuple[Entry, Entry]],
    metric: Quantity,
    study: StudyResults,
    level: float,
) -> dict[str, SignificanceResult]:
    """Test all entries as one family at a level; the loss of each architecture is tested once.

    Entries that differ from another only in parallelism repeat its comparison of losses.
    """
    pairs = []
    asked = set()
    for label, (of_a, of_b) in matched.items():
        architecture = _architecture(of_b)
        if metric == "val_loss" and architecture in asked:
            continue
        asked.add(architecture)
        unit = comparability.of_entries(of_b, of_a).unit if metric == "val_loss" else None
        if metric == "val_loss" and unit is None:
            continue
        question = LOSS_METRICS[unit] if unit else METRICS[metric]
        question = replace(question, incomparable=REASONS.get(metric))
        pairs.append(Pair(of_b, of_a, question, unit, label))
    if not pairs:
        return {}
    verdicts: dict[str, SignificanceResult] = {}
    for test in test_parts(pairs, margin_of(study, metric), level=level):
        verdicts |= test.results
    threshold = superiority_of(study, metric)
    thresholds = {pair.label: pair.margin(threshold) for pair in pairs}
    return superiority.judge(verdicts, thresholds, METRICS[metric].lower_is_better)


def _architecture(entry: Entry) -> frozenset[tuple[str, str]]:
    """Return the labels on all axes but the parallelism, which leaves the loss as it is."""
    return frozenset(item for item in entry.axes.items() if item[0] != PARALLELISM)


def _pair(
    label: str,
    a: Entry,
    b: Entry,
    verdicts: Mapping[Quantity, Mapping[str, SignificanceResult]],
    has_speed: bool,
) -> EntryPair:
    seeds = sorted({run.seed for run in a.done} & {run.seed for run in b.done})
    runs_of_a = [run for run in a.done if run.seed in seeds]
    runs_of_b = [run for run in b.done if run.seed in seeds]
    speed = verdicts["tokens_per_s"].get(label)
    first_of_a = (a.done or a.runs)[0]
    first_of_b = (b.done or b.runs)[0]
    return EntryPair(
        entry=label,
        entry_of_a=a.label,
        seeds=seeds,
        bitwise=all(map(_same_bits, runs_of_a, runs_of_b)) if seeds else None,
        val_loss=verdicts["val_loss"].get(label),
        not_comparable=comparability.of_entries(b, a).reason,
        tokens_per_s=speed,
        peak_memory=verdicts["peak_memory"].get(label),
        speed_not_comparable=machines.compare_speeds(b, a, REASONS["tokens_per_s"]),
        memory_not_comparable=machines.compare_speeds(b, a, REASONS["peak_memory"]),
        tokens_per_s_ratio=_speed_ratio(b, a, speed) if has_speed else None,
        peak_memory_ratio=memory_ratio(*machines.comparable_runs(b, a, REASONS["peak_memory"])),
        training_tokens=(comparability.training_tokens(a), comparability.training_tokens(b)),
        parameters=(first_of_a.parameters, first_of_b.parameters),
        flops_per_token=(first_of_a.flops_per_token, first_of_b.flops_per_token),
        status=(a.status, b.status),
    )


def _speed_ratio(b: Entry, a: Entry, test: SignificanceResult | None) -> Ratio | None:
    """Return the ratio of throughputs with the interval of its test."""
    if test is not None:
        return as_ratio(test.difference)
    return speed_ratio(*machines.comparable_runs(b, a, REASONS["tokens_per_s"]))


def _same_bits(a: RunData, b: RunData) -> bool:
    if a.imported or b.imported:
        return False  # a table may be rounded
    return (
        np.array_equal(a.steps.loss, b.steps.loss)
        and np.array_equal(a.evals.step, b.evals.step)
        and np.array_equal(a.evals.val_loss, b.evals.val_loss)
    )
