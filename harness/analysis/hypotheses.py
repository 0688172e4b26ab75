"""Test the hypotheses of a study: each entry against its baseline and each effect, in each metric.

Throughput and memory are compared as logarithms, so that a factor of 2 counts the same up and down.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from harness.analysis import factorial, significance
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.factorial import Effects
from harness.analysis.intervals import paired_differences
from harness.analysis.metrics import PARALLELISM
from harness.results.records.study_summary import Effect, MetricTests, Quantity, SignificanceResult
from harness.results.run_data import RunData

METRIC_NAMES: Mapping[Quantity, str] = {
    "val_loss": "validation loss",
    "tokens_per_s": "throughput",
    "peak_memory": "peak memory",
}


@dataclass(frozen=True)
class Metric:
    """A quantity to test: its value for a run (None if the run has none) and its direction."""

    value: Callable[[RunData], float | None]
    lower_is_better: bool


def _log_speed(run: RunData) -> float | None:
    return -float(np.log(np.median(run.timed_step_s))) if len(run.timed_step_s) else None


METRICS: Mapping[Quantity, Metric] = {
    "val_loss": Metric(lambda run: run.final_loss, lower_is_better=True),
    "tokens_per_s": Metric(_log_speed, lower_is_better=False),
    "peak_memory": Metric(lambda run: float(np.log(run.peak_memory_bytes)), lower_is_better=True),
}


def test_hypotheses(
    study: StudyResults, diverging: Collection[str] = ()
) -> dict[Quantity, MetricTests]:
    """Test all metrics. Entries that are `diverging` (by label) are omitted."""
    entries = [entry for entry in study.entries if entry.label not in diverging]
    return {quantity: _test_metric(study, entries, quantity) for quantity in METRICS}


def margin_of(study: StudyResults, quantity: Quantity) -> float | None:
    """Return the equivalence margin, in nats or as a logarithm; None if the study states none."""
    margin = study.margins.get(quantity)
    return margin if margin is None or quantity == "val_loss" else float(np.log1p(margin))


def _test_metric(study: StudyResults, entries: list[Entry], quantity: Quantity) -> MetricTests:
    metric = METRICS[quantity]
    margin = margin_of(study, quantity)
    results: dict[str, SignificanceResult] = {}
    for family in _families(study, entries) if quantity == "val_loss" else [entries]:
        differences = {entry.label: _differences(study, entry, metric) for entry in family}
        tested = {label: values for label, values in differences.items() if values}
        results |= significance.test_family(tested, margin, metric.lower_is_better)
    effects = _effects(study, entries, quantity)
    df = effects.design.degrees_of_freedom
    return MetricTests(
        quantity=quantity,
        margin=margin,
        entries=results,
        main_effects=_test_effects(effects.main, margin, metric, df),
        interactions=_test_effects(effects.interactions, margin, metric, df),
        design=effects.design,
    )


def _families(study: StudyResults, entries: list[Entry]) -> list[list[Entry]]:
    """Return the families of tests of the loss, one for each parallelism.

    The same variant under another parallelism repeats a hypothesis. Entries that differ from the
    baseline only in parallelism form a family of their own.
    """
    families: dict[str, list[Entry]] = {}
    for entry in entries:
        base = study.baseline_of(entry)
        only_parallelism = base is not None and _without_parallelism(entry) == _without_parallelism(
            base
        )
        name = "" if only_parallelism else entry.axes.get(PARALLELISM, "")
        families.setdefault(name, []).append(entry)
    return list(families.values())


def _without_parallelism(entry: Entry) -> dict[str, str]:
    return {axis: label for axis, label in entry.axes.items() if axis != PARALLELISM}


def values(entry: Entry, metric: Metric) -> dict[int, float]:
    """Return the metric of each run that is done and has it, by seed."""
    by_seed = {}
    for run in entry.done:
        value = metric.value(run)
        if value is not None:
            by_seed[run.seed] = value
    return by_seed


def _differences(study: StudyResults, entry: Entry, metric: Metric) -> list[float]:
    base = study.baseline_of(entry)
    if base is None:
        return []
    return list(paired_differences(values(entry, metric), values(base, metric)).values())


def _effects(study: StudyResults, entries: list[Entry], quantity: Quantity) -> Effects:
    """Estimate the effects on a metric.

    Those on the loss use the baseline's parallelism only: the other entries repeat its runs, and
    would make the noise look smaller than it is.
    """
    levels = {axis: list(names) for axis, names in study.levels.items()}
    baseline = study.baseline.get(PARALLELISM)
    if quantity == "val_loss" and baseline in levels.get(PARALLELISM, ()):
        entries = [entry for entry in entries if entry.axes[PARALLELISM] == baseline]
        levels[PARALLELISM] = [name for name in levels[PARALLELISM] if name == baseline]
    cells = {}
    for entry in entries:
        cell = tuple(entry.axes[axis] for axis in levels)
        cells[cell] = values(entry, METRICS[quantity])
    return factorial.estimate({cell: found for cell, found in cells.items() if found}, levels)


def _test_effects(
    effects: list[Effect], margin: float | None, metric: Metric, df: int
) -> list[Effect]:
    """Return the effects with their verdicts."""
    p = {i: effect.p for i, effect in enumerate(effects) if effect.p is not None}
    p_equivalent = {i: _equivalence_pvalue(effects[i], margin, df) for i in p}
    p_holm = significance.holm_adjust(p)
    p_equivalent_holm = significance.holm_adjust(p_equivalent)
    tested = []
    for i, effect in enumerate(effects):
        if i not in p or effect.estimate is None:
            tested.append(effect)
            continue
        verdict = significance.classify(
            effect.estimate, p_holm[i], p_equivalent_holm[i], metric.lower_is_better
        )
        tested.append(effect.model_copy(update={"p_holm": p_holm[i], "verdict": verdict}))
    return tested


def _equivalence_pvalue(effect: Effect, margin: float | None, df: int) -> float:
    """Return the p-value of two one-sided t tests that an effect is within the margin."""
    from scipy.special import stdtr

    if margin is None or effect.se is None or effect.estimate is None:
        return 1.0
    excess = abs(effect.estimate) - margin
    if effect.se <= factorial.ROUNDING:
        return float(excess >= 0)
    return float(stdtr(df, excess / effect.se))
