"""The report for programs: the content of summary.json, whose keys `reports/README.md` states."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.analysis import budgets, decoding, equivalence, hypotheses, scaling
from harness.analysis import eval_lengths as lengths
from harness.analysis import metrics as results
from harness.analysis import step_breakdown as where
from harness.analysis import variance_components as variance
from harness.analysis.budgets import CostToBaselineLoss, Ranking
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.decoding import Decoding
from harness.analysis.equivalence import Equivalence
from harness.analysis.eval_lengths import LengthLoss
from harness.analysis.hypotheses import MetricTests, Quantity
from harness.analysis.metrics import DIVERGES, BaselineComparison, Result
from harness.analysis.scaling import ScalingRow
from harness.analysis.step_breakdown import MemoryPrediction, PhaseTimes, TrafficTotals
from harness.analysis.variance_components import VarianceComponents
from harness.results.records import SCHEMA_VERSION
from harness.results.run_data import RunData
from harness.results.upgrade import Json

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Summary:
    """A study and all that was worked out from it; what tables, figures and page are made of."""

    study: StudyResults
    created_at: str
    results: dict[str, Result]
    comparisons: list[BaselineComparison]
    metric_tests: dict[Quantity, MetricTests]
    rankings: list[Ranking]
    savings: list[CostToBaselineLoss]
    variance: list[VarianceComponents]
    equivalence: list[Equivalence]
    decoding: dict[str, list[Decoding]]
    lengths: dict[str, list[LengthLoss]]
    phases: dict[str, PhaseTimes | None]
    traffic: dict[str, TrafficTotals | None]
    predicted_memory: dict[str, MemoryPrediction | None]
    scaling: list[ScalingRow]

    @cached_property
    def with_results(self) -> list[Result]:
        """The results of the entries that have some run done, in the study's order."""
        return [result for result in self.results.values() if result.val_loss]

    @cached_property
    def tables(self) -> "dict[str, pd.DataFrame]":
        """The tables of the report by name, as `harness.analysis.tables.COLUMNS` documents them."""
        from harness.analysis.tables import build_tables

        return build_tables(self)

    @cached_property
    def diverging(self) -> set[str]:
        """The labels of the entries that train another model than they say, and so have no speed."""
        return {label for label, result in self.results.items() if result.equivalence == DIVERGES}

    def restricted_to(self, entries: Sequence[Entry]) -> "Summary":
        """Return the part that tells of these entries alone; verdicts and effects stay those of the whole study."""
        levels = {
            axis: tuple(
                level for level in names if any(entry.axes[axis] == level for entry in entries)
            )
            for axis, names in self.study.levels.items()
        }
        labels = {entry.label for entry in entries}
        fields: dict[str, Any] = {
            name: {label: found for label, found in getattr(self, name).items() if label in labels}
            for name in ("results", "decoding", "lengths", "phases", "traffic", "predicted_memory")
        }
        for name in ("comparisons", "equivalence"):
            fields[name] = [found for found in getattr(self, name) if found.entry in labels]
        return replace(
            self, study=replace(self.study, entries=tuple(entries), levels=levels), **fields
        )


def summarize(study: StudyResults, created_at: str) -> Summary:
    """Work out all numbers of the report, once."""
    equivalent = equivalence.equivalence(study)
    verdicts = equivalence.verdicts(equivalent)
    diverging = {label for label, verdict in verdicts.items() if verdict == DIVERGES}
    return Summary(
        study=study,
        created_at=created_at,
        results={
            entry.label: results.result(entry, verdicts.get(entry.label)) for entry in study.entries
        },
        comparisons=results.comparisons(study, diverging),
        metric_tests=hypotheses.test_hypotheses(study, diverging),
        rankings=budgets.rankings(study),
        savings=budgets.savings(study),
        variance=variance.shares(study),
        equivalence=equivalent,
        decoding={entry.label: decoding.measures(study, entry) for entry in study.entries},
        lengths={entry.label: lengths.measures(study, entry) for entry in study.entries},
        phases={
            entry.label: where.phases(entry, verdicts.get(entry.label)) for entry in study.entries
        },
        traffic={entry.label: where.traffic(entry) for entry in study.entries},
        predicted_memory={entry.label: where.memory_prediction(entry) for entry in study.entries},
        scaling=scaling.scaling(study, verdicts),
    )


def as_json(summary: Summary) -> Json:
    """Return the content of summary.json."""
    study = summary.study
    return {
        "schema_version": SCHEMA_VERSION,
        "study": study.name,
        "created_at": summary.created_at,
        "settings_hash": study.settings_hash or None,
        "axes": {axis: list(levels) for axis, levels in study.levels.items()},
        "baseline": study.baseline,
        "settings": {
            section: getattr(study.spec, section).model_dump() if study.spec else None
            for section in ("model", "data", "train")
        },
        "runs": dict(sorted(Counter(run.status for run in study.runs).items())),
        "left_out": {"other_settings": study.left_out, "superseded": study.superseded},
        "unreadable": study.unreadable,
        "entries": [_entry(summary, entry) for entry in study.entries],
        "comparisons": summary.comparisons,
        "verdicts": {
            quantity: _judgement(found) for quantity, found in summary.metric_tests.items()
        },
        "rankings": summary.rankings,
        "savings": summary.savings,
        "variance": summary.variance,
        "equivalence": summary.equivalence,
        "scaling": summary.scaling,
        "environments": _environments(study.runs),
        "launches": [launch.model_dump() for launch in study.launches],
    }


def _judgement(found: MetricTests) -> Json:
    levels = {
        name: [
            vars(level.effect) | {"p_holm": level.p_holm, "verdict": level.verdict}
            for level in levels
        ]
        for name, levels in (("main_effects", found.main), ("interactions", found.interactions))
    }
    design: Json = {
        "runs": found.design.n_runs,
        "degrees_of_freedom": found.design.degrees_of_freedom,
    }
    design |= {
        "noise": found.design.noise,
        "missing": [list(cell) for cell in found.design.missing],
    }
    return {"margin": found.margin, "entries": found.entries, "design": design} | levels


def _entry(summary: Summary, entry: Entry) -> Json:
    fields = vars(summary.results[entry.label])
    probed = {
        "decoding": summary.decoding[entry.label],
        "lengths": summary.lengths[entry.label],
        "phases": summary.phases[entry.label],
        "traffic": summary.traffic[entry.label],
        "predicted_memory": summary.predicted_memory[entry.label],
    }
    runs = [_run(run) for run in (*entry.runs, *entry.crossed)]
    return fields | probed | {"runs": runs}


def _run(run: RunData) -> Json:
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
        "peak_flops": probes and probes.peak_flops.model_dump(),
        "flops_per_token_counted": probes and probes.flops_per_token_counted,
    }


def _environments(runs: list[RunData]) -> list[Json]:
    """Return each distinct env.json, with the runs that ran so."""
    found: dict[str, Json] = {}
    for run in runs:
        if run.env:
            environment = found.setdefault(repr(run.env), {"env": run.env.model_dump(), "runs": []})
            environment["runs"].append(run.run_id)
    return list(found.values())
