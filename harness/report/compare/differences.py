"""Two studies, or one at two times, entry by entry and seed by seed. Field names are those of summary.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.analysis import equivalence
from harness.analysis import intervals as statistics
from harness.analysis import significance as verdicts
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.hypotheses import METRICS, Quantity, margin_of, values
from harness.analysis.intervals import Ratio
from harness.analysis.metrics import DIVERGES, PARALLELISM, timed
from harness.analysis.significance import SignificanceResult
from harness.report.compare.sources import Source
from harness.results.run_data import RunData
from harness.results.store import SCHEMA_VERSION, Json

OF_MACHINE = (
    "host",
    "cpu",
    "cores",
    "memory_bytes",
    "gpu",
    "platform",
    "cuda",
    "threads",
)  # of env.json
SAME_TEST = (
    "sha256",
    "tokenizer",
)  # of data: what must be equal for two validation losses to be of one text


@dataclass(frozen=True)
class Pair:
    """An entry of B beside that of A with the same labels, over the seeds that both have done.

    `bitwise` tells whether every training and validation loss is the same bits; None without a common seed. The
    verdicts are B against A; that on the loss is missing where the two were not validated alike. Ratios are B over A.
    Where one of them diverges from what it says to train, nothing is said of speed.
    """

    label: str
    seeds: list[int]
    bitwise: bool | None
    val_loss: SignificanceResult | None
    tokens_per_s: SignificanceResult | None
    peak_memory: SignificanceResult | None
    tokens_per_s_ratio: Ratio | None
    peak_memory_ratio: float | None
    parameters: tuple[int, int]
    flops_per_token: tuple[float, float]
    status: tuple[Any, Any]


@dataclass(frozen=True)
class Versus:
    """B against A: the entries of both, those of one alone, and what differs that is no entry.

    `settings` and `surroundings` have for each key that differs the values of A and of B.
    """

    a: str
    b: str
    created_at: str
    pairs: list[Pair]
    only_a: list[str]
    only_b: list[str]
    settings: dict[str, tuple[Any, Any]]
    surroundings: dict[str, tuple[Any, Any]]
    losses_compare: bool
    margins: dict[str, float]

    @property
    def same_machine(self) -> bool:
        """Whether nothing differs that a step's time depends on beside the code."""
        return not any(key in self.surroundings for key in OF_MACHINE)


def versus(a: Source, b: Source, created_at: str) -> Versus:
    """Compare B with A; the margins are those that B's study states."""
    matched = _matched(a.study, b.study)
    settings = _different(_settings(a.study), _settings(b.study))
    alike = (
        not any(f"data.{key}" in settings for key in SAME_TEST)
        and "model.vocab_size" not in settings
    )
    of_a, of_b = _diverging(a.study), _diverging(b.study)
    diverging = {
        label for label, (one, other) in matched.items() if one.label in of_a or other.label in of_b
    }
    sound = {label: pair for label, pair in matched.items() if label not in diverging}
    judged = {
        quantity: _judge(sound if quantity == "tokens_per_s" else matched, quantity, b.study)
        for quantity in METRICS
    }
    return Versus(
        a=a.label,
        b=b.label,
        created_at=created_at,
        pairs=[
            _pair(label, one, other, judged, alike, label in diverging)
            for label, (one, other) in matched.items()
        ],
        only_a=_unmatched(a.study, [one for one, _ in matched.values()]),
        only_b=_unmatched(b.study, [other for _, other in matched.values()]),
        settings=settings,
        surroundings=_different(_environment(a.study), _environment(b.study)),
        losses_compare=alike,
        margins=b.study.margins,
    )


def _diverging(study: StudyResults) -> set[str]:
    """Return the labels of the entries that train another model than they say: their speed is no measure of it."""
    return {
        label
        for label, word in equivalence.by_entry(equivalence.check(study)).items()
        if word == DIVERGES
    }


def _settings(study: StudyResults) -> dict[str, Any]:
    sections = ("model", "data", "train")
    return {
        f"{name}.{key}": value
        for name in sections
        for key, value in study.spec.get(name, {}).items()
    }


def _matched(a: StudyResults, b: StudyResults) -> dict[str, tuple[Entry, Entry]]:
    """Return the entries with the same labels; an axis that one study lacks counts as the other's baseline."""
    of_a = {_labels(entry, a, b): entry for entry in a.entries}
    return {
        entry.label: (of_a[labels], entry)
        for entry in b.entries
        if (labels := _labels(entry, b, a)) in of_a
    }


def _labels(entry: Entry, study: StudyResults, other: StudyResults) -> frozenset[tuple[str, str]]:
    return frozenset(
        (axis, label)
        for axis, label in entry.axes.items()
        if axis in other.levels or label != study.baseline.get(axis)
    )


def _unmatched(study: StudyResults, matched: list[Entry]) -> list[str]:
    labels = {entry.label for entry in matched}
    return [entry.label for entry in study.entries if entry.label not in labels]


def _different(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        key: (a.get(key), b.get(key)) for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)
    }


def _environment(study: StudyResults) -> dict[str, Any]:
    """Return each key of the runs' environments with its value, or all its values where runs differ."""
    found: dict[str, list[Any]] = {}
    for run in study.runs:
        for key, value in run.env.items():
            if value not in found.setdefault(key, []):
                found[key].append(value)
    return {
        key: each[0] if len(each) == 1 else sorted(map(str, each)) for key, each in found.items()
    }


def _judge(
    matched: Mapping[str, tuple[Entry, Entry]], quantity: Quantity, study: StudyResults
) -> dict[str, SignificanceResult]:
    """Judge all entries as one family; losses under another parallelism are the same question once more."""
    question, families = METRICS[quantity], {}  # type: ignore[var-annotated]
    for label, (a, b) in matched.items():
        own, other = values(b, question), values(a, question)
        differences = [own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())]
        if differences:
            group = b.axes.get(PARALLELISM, "") if quantity == "val_loss" else ""
            families.setdefault(group, {})[label] = differences
    margin = margin_of(study, quantity)
    return {
        label: verdict
        for family in families.values()
        for label, verdict in verdicts.test_family(family, margin, question.lower_is_better).items()
    }


def _pair(
    label: str,
    a: Entry,
    b: Entry,
    judged: Mapping[Quantity, Mapping[str, SignificanceResult]],
    alike: bool,
    diverges: bool,
) -> Pair:
    of_a, of_b = ({run.seed: run for run in entry.done} for entry in (a, b))
    both = [(of_a[seed], of_b[seed]) for seed in sorted(of_a.keys() & of_b.keys())]
    step_s = [(timed([one]), timed([other])) for one, other in both]
    step_s = [pair for pair in step_s if all(pair)]
    peaks = [
        max(rank["peak"] for run in runs for rank in run.probes["memory"])
        for runs in zip(*both, strict=True)
    ]
    return Pair(
        label=label,
        seeds=[one.seed for one, _ in both],
        bitwise=all(_same_bits(*pair) for pair in both) if both else None,
        val_loss=judged["val_loss"].get(label) if alike else None,
        tokens_per_s=judged["tokens_per_s"].get(label),
        peak_memory=judged["peak_memory"].get(label),
        tokens_per_s_ratio=None
        if diverges
        else _faster([a for (a,), _ in step_s], [b for _, (b,) in step_s]),
        peak_memory_ratio=peaks[1] / peaks[0] if peaks else None,
        parameters=(_measured(a, "parameters"), _measured(b, "parameters")),
        flops_per_token=(_measured(a, "flops_per_token"), _measured(b, "flops_per_token")),
        status=(a.status, b.status),
    )


def _faster(a: list[np.ndarray], b: list[np.ndarray]) -> Ratio | None:
    return statistics.ratio_of_medians(a, b) if a else None


def _measured(entry: Entry, key: str) -> Any:
    return entry.done[0].probes[key] if entry.done else entry.runs[0].spec["expected"][key]


def _same_bits(a: RunData, b: RunData) -> bool:
    columns = (
        (a.steps.loss, b.steps.loss),
        (a.evals.step, b.evals.step),
        (a.evals.val_loss, b.evals.val_loss),
    )
    return all(np.array_equal(one, other) for one, other in columns)


def as_json(found: Versus) -> Json:
    """Return the content of summary.json."""
    return {"schema_version": SCHEMA_VERSION, **vars(found)}
