"""The questions that a study asks of its runs, put to `verdicts` and `effects`: loss, throughput and memory.

Throughput and memory are compared as logarithms, so that a factor of two up is as far as one down.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.analysis import factorial as effects
from harness.analysis import significance as verdicts
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.factorial import Effect, Effects
from harness.analysis.metrics import PARALLELISM, baseline_of
from harness.analysis.significance import SignificanceResult, VerdictName
from harness.results.run_data import RunData

Quantity = Literal["val_loss", "tokens_per_s", "peak_memory"]


METRIC_NAMES: Mapping[Quantity, str] = {
    "val_loss": "validation loss",
    "tokens_per_s": "throughput",
    "peak_memory": "peak memory",
}


@dataclass(frozen=True)
class Metric:
    """A quantity of a run, None where the run has none; and which way is better."""

    of: Callable[[RunData], float | None]
    lower_is_better: bool


def _log_speed(run: RunData) -> float | None:
    return -float(np.log(np.median(run.timed_step_s))) if len(run.timed_step_s) else None


METRICS: Mapping[Quantity, Metric] = {
    "val_loss": Metric(lambda run: float(run.evals.val_loss[-1]), lower_is_better=True),
    "tokens_per_s": Metric(_log_speed, lower_is_better=False),
    "peak_memory": Metric(
        lambda run: float(np.log(max(rank.peak for rank in run.measured.memory))),
        lower_is_better=True,
    ),
}


@dataclass(frozen=True)
class TestedEffect:
    """An effect of the design, with its verdict; `p_holm` is corrected for all main effects, or all interactions."""

    effect: Effect
    p_holm: float | None
    verdict: VerdictName | None


@dataclass(frozen=True)
class MetricTests:
    """All that is asked about one quantity: every entry against its baseline, and every effect of the design."""

    quantity: Quantity
    margin: float | None
    entries: dict[str, SignificanceResult]
    design: Effects
    main: list[TestedEffect]
    interactions: list[TestedEffect]


def test_hypotheses(
    study: StudyResults, diverging: Collection[str] = ()
) -> dict[Quantity, MetricTests]:
    """Answer what a study asks; entries that are `diverging` train another model and are asked nothing."""
    return {
        quantity: _judgement(study, diverging, quantity, question, margin_of(study, quantity))
        for quantity, question in METRICS.items()
    }


def margin_of(study: StudyResults, quantity: Quantity) -> float | None:
    """Return how much makes no difference, in nats or as a logarithm; None where the study does not say."""
    margin = study.margins.get(quantity)
    return margin if margin is None or quantity == "val_loss" else float(np.log1p(margin))


def _judgement(
    study: StudyResults,
    diverging: Collection[str],
    quantity: Quantity,
    question: Metric,
    margin: float | None,
) -> MetricTests:
    entries = [entry for entry in study.entries if entry.label not in diverging]
    found: dict[str, SignificanceResult] = {}
    for group in _families(study, entries) if quantity == "val_loss" else [entries]:
        differences = {entry.label: _differences(study, entry, question) for entry in group}
        asked = {label: values for label, values in differences.items() if values}
        found |= verdicts.test_family(asked, margin, question.lower_is_better)
    design = _design(study, entries, quantity, question)
    return MetricTests(
        quantity=quantity,
        margin=margin,
        entries=found,
        design=design,
        main=_levels(design.main, margin, question, design.degrees_of_freedom),
        interactions=_levels(design.interactions, margin, question, design.degrees_of_freedom),
    )


def _families(study: StudyResults, entries: list[Entry]) -> list[list[Entry]]:
    """Return whose losses are asked about together: under another parallelism that is the same question once more.

    Whether the parallelism by itself changes the loss is a question of its own.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        base = baseline_of(study, entry)
        alone = base is not None and {**entry.axes, PARALLELISM: ""} == {
            **base.axes,
            PARALLELISM: "",
        }
        groups.setdefault("" if alone else entry.axes.get(PARALLELISM, ""), []).append(entry)
    return list(groups.values())


def values(entry: Entry, question: Metric) -> dict[int, float]:
    """Return the quantity of each done run that has it, by seed."""
    return {run.seed: value for run in entry.done if (value := question.of(run)) is not None}


def _differences(study: StudyResults, entry: Entry, question: Metric) -> list[float]:
    base = baseline_of(study, entry)
    if base is None:
        return []
    own, other = values(entry, question), values(base, question)
    return [own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())]


def _design(
    study: StudyResults, entries: list[Entry], quantity: Quantity, question: Metric
) -> Effects:
    """Estimate the effects. Of losses one parallelism counts: the others repeat its runs, and tell nothing of noise."""
    levels = {axis: list(names) for axis, names in study.levels.items()}
    usual = study.baseline.get(PARALLELISM)
    if quantity == "val_loss" and usual in levels.get(PARALLELISM, ()):
        entries = [entry for entry in entries if entry.axes[PARALLELISM] == usual]
        levels[PARALLELISM] = [name for name in levels[PARALLELISM] if name == usual]
    cells = {
        tuple(entry.axes[axis] for axis in levels): values(entry, question) for entry in entries
    }
    return effects.estimate({cell: values for cell, values in cells.items() if values}, levels)


def _levels(
    found: list[Effect], margin: float | None, question: Metric, df: int
) -> list[TestedEffect]:
    keys = range(len(found))
    p = {i: one.p for i, one in zip(keys, found, strict=True) if one.p is not None}
    equivalent = {i: _p_within(found[i], margin, df) for i in p}
    holm, holm_equivalent = verdicts.holm_adjust(p), verdicts.holm_adjust(equivalent)

    def level(i: int) -> TestedEffect:
        one = found[i]
        if i not in p or one.estimate is None:
            return TestedEffect(one, None, None)
        word = verdicts.classify(
            one.estimate, holm[i], holm_equivalent[i], question.lower_is_better
        )
        return TestedEffect(one, holm[i], word)

    return [level(i) for i in keys]


def _p_within(effect: Effect, margin: float | None, df: int) -> float:
    from scipy.special import stdtr

    if margin is None or effect.se is None or effect.estimate is None:
        return 1.0
    beyond = abs(effect.estimate) - margin
    return (
        float(stdtr(df, beyond / effect.se)) if effect.se > effects.ROUNDING else float(beyond >= 0)
    )
