"""Compare two studies entry by entry, paired by seed. Field names are those of summary.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.analysis import comparability, equivalence, machines, settings, superiority
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
from harness.report.compare.sources import Source
from harness.results.records import SCHEMA_VERSION
from harness.results.records.caveats import Caveat
from harness.results.records.comparisons import Quantity, SignificanceResult
from harness.results.records.entries import EntryStatus
from harness.results.records.estimates import Ratio
from harness.results.run_data import RunData
from harness.results.upgrade import Json

# Two sides may be compared to see what a version of software changes; a study may not mix them.
REASONS: Mapping[Quantity, machines.Reason] = {
    "tokens_per_s": machines.hardware_reason,
    "peak_memory": machines.device_reason,
}
Difference = tuple[object, object]  # the values of A and B


@dataclass(frozen=True)
class EntryPair:
    """An entry of B and that of A with the same labels, over the seeds that both have done.

    `bitwise`: every training and validation loss is identical; None without a common seed. Verdicts
    are B against A; `val_loss` is None, with the reason in `not_comparable`, if the two were
    validated on different texts. Under different tokenizers it is in bits per byte. Ratios are B
    over A. `repeats` names the entry whose loss is tested for this one, which differs from it in
    parallelism only. There is no speed if one of the two diverges from its single-process run, or,
    with the reason in `speed_not_comparable`, if no seed ran on one machine in both.
    """

    entry: str
    seeds: list[int]
    bitwise: bool | None
    val_loss: SignificanceResult | None
    not_comparable: str | None
    speed_not_comparable: str | None
    memory_not_comparable: str | None
    tokens_per_s: SignificanceResult | None
    peak_memory: SignificanceResult | None
    tokens_per_s_ratio: Ratio | None
    peak_memory_ratio: float | None
    training_tokens: tuple[int | None, int | None]
    parameters: tuple[int | None, int | None]
    flops_per_token: tuple[float | None, float | None]
    status: tuple[EntryStatus, EntryStatus]
    repeats: str | None = None

    def verdict(self, metric: Quantity) -> SignificanceResult | None:
        """Return the verdict on one metric."""
        verdict: SignificanceResult | None = getattr(self, metric)
        return verdict


@dataclass(frozen=True)
class Comparison:
    """B against A: the entries of both, the entries of only one, and what else differs.

    `settings_diff` and `environment_diff` have the values of A and B for each key that differs.
    """

    a: str
    b: str
    created_at: str
    pairs: list[EntryPair]
    only_in_a: list[str]
    only_in_b: list[str]
    settings_diff: dict[str, Difference]
    environment_diff: dict[str, Difference]
    losses_comparable: bool
    margins: dict[str, float]
    superiority: dict[str, float]
    caveats: list[Caveat]
    imported: list[str]  # labels of the sides that are of another trainer

    @property
    def shared(self) -> list[EntryPair]:
        """The pairs with a seed that both have done, or with an unpaired comparison."""
        return [pair for pair in self.pairs if pair.seeds or pair.val_loss]


def compare(a: Source, b: Source, created_at: str) -> Comparison:
    """Compare B with A, with the equivalence margins that B's study states.

    If seeds were added to a study because of its results, the level is that of its last look.
    """
    matched = _matched_entries(a.study, b.study)
    settings_diff = _diff(_settings(a.study), _settings(b.study))
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
        pairs.append(replace(pair, repeats=None if tested == label else tested))
    return Comparison(
        a=a.label,
        b=b.label,
        created_at=created_at,
        pairs=pairs,
        only_in_a=_unmatched(a.study, [of_a for of_a, _ in matched.values()]),
        only_in_b=_unmatched(b.study, [of_b for _, of_b in matched.values()]),
        settings_diff=settings_diff,
        environment_diff=_diff(_environment(a.study), _environment(b.study)),
        losses_comparable=all(pair.not_comparable is None for pair in pairs),
        margins=b.study.margins,
        superiority=b.study.superiority,
        caveats=_caveats(a, b, {of_a.label: label for label, (of_a, _) in matched.items()}),
        imported=[side.label for side in (a, b) if side.study.imported],
    )


def _caveats(a: Source, b: Source, b_label_of: Mapping[str, str]) -> list[Caveat]:
    """Return the caveats of both sides under B's labels of the entries."""
    caveats = []
    for caveat in find_caveats(a.study):
        entry = b_label_of.get(caveat.entry, caveat.entry) if caveat.entry else None
        message = f"in {a.label}: {caveat.message}"
        caveats.append(caveat.model_copy(update={"entry": entry, "message": message}))
    for caveat in find_caveats(b.study):
        message = f"in {b.label}: {caveat.message}"
        caveats.append(caveat.model_copy(update={"message": message}))
    return caveats


def as_json(comparison: Comparison) -> Json:
    """Return the content of summary.json."""
    caveats = [caveat.model_dump() for caveat in comparison.caveats]
    return {"schema_version": SCHEMA_VERSION, **vars(comparison), "caveats": caveats}


def _settings(study: StudyResults) -> dict[str, object]:
    """Return each setting, or its values by label if entries differ."""
    values: dict[str, object] = {}
    if study.entries:
        values |= settings.resolved(study.entries[0])
    for key, by_label in settings.varied(study).items():
        values[key] = [f"{value} ({label})" for label, value in by_label.items()]
    return values


def _environment(study: StudyResults) -> dict[str, object]:
    """Return the value of each key of env.json, or the sorted list of values if runs differ."""
    values_by_key: dict[str, list[object]] = {}
    for run in study.runs:
        for key, value in run.env.model_dump().items() if run.env else ():
            known = values_by_key.setdefault(key, [])
            if value not in known:
                known.append(value)
    environment: dict[str, object] = {}
    for key, known in values_by_key.items():
        environment[key] = known[0] if len(known) == 1 else sorted(map(str, known))
    return environment


def _diff(a: Mapping[str, object], b: Mapping[str, object]) -> dict[str, Difference]:
    return {
        key: (a.get(key), b.get(key)) for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)
    }


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
