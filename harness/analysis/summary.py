"""All results of a study, computed once for the report, its tables and summary.json."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from harness.analysis import (
    budgets,
    decoding,
    equivalence,
    eval_lengths,
    hypotheses,
    metrics,
    scaling,
    step_breakdown,
    variance_components,
)
from harness.analysis.budgets import CostToBaselineLoss, Ranking
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.decoding import Decoding
from harness.analysis.equivalence import Equivalence
from harness.analysis.eval_lengths import LengthLoss
from harness.analysis.hypotheses import MetricTests, Quantity
from harness.analysis.metrics import DIVERGES, BaselineComparison, Result
from harness.analysis.scaling import ScalingRow
from harness.analysis.step_breakdown import MemoryComparison, PhaseTimes, TrafficTotals
from harness.analysis.variance_components import VarianceComponents
from harness.results.records import SCHEMA_VERSION, Environment
from harness.results.run_data import RunData

if TYPE_CHECKING:
    import pandas as pd

Value = TypeVar("Value")
JsonObject = dict[str, object]


@dataclass(frozen=True)
class Summary:
    """A study and all results computed from it. Mappings are by the label of the entry."""

    study: StudyResults
    created_at: str
    results: Mapping[str, Result]
    comparisons: list[BaselineComparison]
    metric_tests: Mapping[Quantity, MetricTests]
    rankings: list[Ranking]
    savings: list[CostToBaselineLoss]
    variance: list[VarianceComponents]
    equivalence: list[Equivalence]
    decoding: Mapping[str, list[Decoding]]
    lengths: Mapping[str, list[LengthLoss]]
    phases: Mapping[str, PhaseTimes | None]
    traffic: Mapping[str, TrafficTotals | None]
    predicted_memory: Mapping[str, MemoryComparison | None]
    scaling: list[ScalingRow]

    @cached_property
    def with_results(self) -> list[Result]:
        """The results of the entries that have a run that is done, in the study's order."""
        return [result for result in self.results.values() if result.val_loss]

    @cached_property
    def tables(self) -> "dict[str, pd.DataFrame]":
        """The tables of the report by name, as `harness.analysis.tables.COLUMNS` documents them."""
        from harness.analysis.tables import build_tables

        return build_tables(self)

    @cached_property
    def diverging(self) -> set[str]:
        """The labels of the entries that do not reproduce the single-process run."""
        return {label for label, result in self.results.items() if result.equivalence == DIVERGES}

    def restricted_to(self, entries: Sequence[Entry]) -> "Summary":
        """Return the results of these entries; verdicts and effects remain the whole study's."""
        kept = {entry.label for entry in entries}
        levels = {}
        for axis, labels in self.study.levels.items():
            used = {entry.axes[axis] for entry in entries}
            levels[axis] = tuple(label for label in labels if label in used)

        def restrict(by_entry: Mapping[str, Value]) -> dict[str, Value]:
            return {label: value for label, value in by_entry.items() if label in kept}

        return replace(
            self,
            study=replace(self.study, entries=tuple(entries), levels=levels),
            results=restrict(self.results),
            comparisons=[row for row in self.comparisons if row.entry in kept],
            equivalence=[row for row in self.equivalence if row.entry in kept],
            decoding=restrict(self.decoding),
            lengths=restrict(self.lengths),
            phases=restrict(self.phases),
            traffic=restrict(self.traffic),
            predicted_memory=restrict(self.predicted_memory),
        )


def summarize(study: StudyResults, created_at: str) -> Summary:
    """Compute all results of a study."""
    checks = equivalence.check(study)
    statuses = equivalence.by_entry(checks)
    diverging = {label for label, status in statuses.items() if status == DIVERGES}
    entries = {entry.label: entry for entry in study.entries}
    return Summary(
        study=study,
        created_at=created_at,
        results={
            label: metrics.result(entry, statuses.get(label)) for label, entry in entries.items()
        },
        comparisons=metrics.comparisons(study, diverging),
        metric_tests=hypotheses.test_hypotheses(study, diverging),
        rankings=budgets.rankings(study),
        savings=budgets.savings(study),
        variance=variance_components.variance_components(study),
        equivalence=checks,
        decoding={label: decoding.measures(study, entry) for label, entry in entries.items()},
        lengths={label: eval_lengths.measures(study, entry) for label, entry in entries.items()},
        phases={
            label: step_breakdown.phase_times(entry, statuses.get(label))
            for label, entry in entries.items()
        },
        traffic={label: step_breakdown.traffic_totals(entry) for label, entry in entries.items()},
        predicted_memory={
            label: step_breakdown.memory_comparison(entry) for label, entry in entries.items()
        },
        scaling=scaling.scaling(study, statuses),
    )


def as_json(summary: Summary) -> JsonObject:
    """Return the content of summary.json."""
    study = summary.study
    runs = Counter(run.status for run in study.runs)
    return {
        "schema_version": SCHEMA_VERSION,
        "study": study.name,
        "created_at": summary.created_at,
        "settings_hash": study.settings_hash or None,
        "axes": {axis: list(levels) for axis, levels in study.levels.items()},
        "baseline": study.baseline,
        "settings": {
            section: getattr(study.spec, section, None) for section in ("model", "data", "train")
        },
        "runs": dict(sorted(runs.items())),
        "left_out": {"other_settings": study.left_out, "superseded": study.superseded},
        "unreadable": study.unreadable,
        "entries": [_entry(summary, entry) for entry in study.entries],
        "comparisons": summary.comparisons,
        "verdicts": {
            quantity: _metric_tests(tests) for quantity, tests in summary.metric_tests.items()
        },
        "rankings": summary.rankings,
        "savings": summary.savings,
        "variance": summary.variance,
        "equivalence": summary.equivalence,
        "scaling": summary.scaling,
        "environments": _environments(study.runs),
        "launches": list(study.launches),
    }


def _metric_tests(tests: MetricTests) -> JsonObject:
    content: JsonObject = {
        "margin": tests.margin,
        "entries": tests.entries,
        "design": {
            "runs": tests.design.n_runs,
            "degrees_of_freedom": tests.design.degrees_of_freedom,
            "noise": tests.design.noise,
            "missing": tests.design.missing,
        },
    }
    for name, effects in (("main_effects", tests.main), ("interactions", tests.interactions)):
        content[name] = [
            vars(tested.effect) | {"p_holm": tested.p_holm, "verdict": tested.verdict}
            for tested in effects
        ]
    return content


def _entry(summary: Summary, entry: Entry) -> JsonObject:
    return vars(summary.results[entry.label]) | {
        "decoding": summary.decoding[entry.label],
        "lengths": summary.lengths[entry.label],
        "phases": summary.phases[entry.label],
        "traffic": summary.traffic[entry.label],
        "predicted_memory": summary.predicted_memory[entry.label],
        "runs": [_run(run) for run in (*entry.runs, *entry.crossed)],
    }


def _run(run: RunData) -> JsonObject:
    probes = run.probes
    return {
        "run_id": run.run_id,
        "seed": run.seed,
        "data_seed": run.order_seed,
        "status": run.status,
        "reason": run.reason,
        "message": run.message,
        "steps_recorded": len(run.steps),
        "initial_hash": probes and probes.initial_hash,
        "final_hashes": probes and probes.final_hashes,
        "attention_kernels": probes and probes.attention_kernels,
        "peak_flops": probes and probes.peak_flops,
        "flops_per_token_counted": probes and probes.flops_per_token_counted,
    }


def _environments(runs: list[RunData]) -> list[JsonObject]:
    """Return each distinct env.json, with the ids of its runs."""
    by_content: dict[str, tuple[Environment, list[str]]] = {}
    for run in runs:
        if run.env:
            _, run_ids = by_content.setdefault(repr(run.env), (run.env, []))
            run_ids.append(run.run_id)
    return [{"env": env, "runs": run_ids} for env, run_ids in by_content.values()]
