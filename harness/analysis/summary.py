"""All results of a study, computed once for the report, its tables and summary.json."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from harness.analysis import (
    budgets,
    contexts,
    corpora,
    decoding,
    equivalence,
    eval_lengths,
    group_titles,
    hypotheses,
    ladder,
    machines,
    metrics,
    scaling,
    settings,
    stability,
    step_breakdown,
    tasks,
    tuning,
    variance_components,
)
from harness.analysis.answer import find_answer
from harness.analysis.candidates import candidate_positions
from harness.analysis.caveats import LEAKS, find_caveats, find_stamps, shared_kinds
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.metrics import DIVERGES
from harness.analysis.verdicts import excludes_zero
from harness.results.records import Environment
from harness.results.records.answer import Answer
from harness.results.records.caveats import Caveat, CaveatKind
from harness.results.records.comparisons import (
    BaselineComparison,
    CostToBaselineLoss,
    MetricTests,
    Quantity,
    Ranking,
    VarianceComponents,
)
from harness.results.records.contexts import ContextResult
from harness.results.records.entries import (
    EntryResult,
    EquivalenceStatus,
    RunSummary,
    Spike,
    TaskScore,
)
from harness.results.records.ladder import Ladder
from harness.results.records.study_summary import (
    EnvironmentRuns,
    Equivalence,
    LeftOut,
    Scalar,
    ScalingRow,
    SharedSettings,
    StudySummary,
)
from harness.results.records.tuning import TuningResults
from harness.results.run_data import RunData

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Summary:
    """A study and all results computed from it. Mappings are by the label of the entry."""

    study: StudyResults
    created_at: str
    results: Mapping[str, EntryResult]
    comparisons: list[BaselineComparison]
    metric_tests: Mapping[Quantity, MetricTests]
    rankings: list[Ranking]
    savings: list[CostToBaselineLoss]
    variance: list[VarianceComponents]
    equivalence: list[Equivalence]
    scaling: list[ScalingRow]
    compared_contexts: list[ContextResult]
    ladder: Ladder | None
    spikes: list[Spike]
    caveats: list[Caveat]
    answer: Answer
    tuning: TuningResults | None = None

    @cached_property
    def with_results(self) -> list[EntryResult]:
        """The results of the entries that have a run that is done, in the study's order."""
        return [result for result in self.results.values() if result.val_loss]

    @cached_property
    def varied(self) -> dict[str, dict[str, Scalar]]:
        """The settings that differ between entries, with their values (see `settings.varied`)."""
        return settings.varied(self.study)

    @cached_property
    def tables(self) -> "dict[str, pd.DataFrame]":
        """The tables of the report by name; `table_columns.COLUMNS` documents them."""
        from harness.analysis.tables import build_tables

        return build_tables(self)

    @cached_property
    def group_titles(self) -> dict[str, str]:
        """What people read in place of the names of groups (see `group_titles`)."""
        axis = self.ladder.axis if self.ladder else None
        return group_titles.group_titles(self.study, axis, self.scaling)

    @cached_property
    def shared_caveats(self) -> list[CaveatKind]:
        """The kinds of caveats that all entries of the study have."""
        return shared_kinds(
            self.caveats, [label for row in self.answer.rows for label in row.entries]
        )

    @cached_property
    def stamps(self) -> dict[str, str]:
        """The stamp of each entry with caveats that not all have: ` [unstable]`."""
        own = [caveat for caveat in self.caveats if caveat.kind not in self.shared_caveats]
        return find_stamps(own)

    @cached_property
    def diverging(self) -> set[str]:
        """The labels of the entries that do not reproduce the single-process run."""
        return {label for label, result in self.results.items() if result.equivalence == DIVERGES}

    @cached_property
    def without_speed(self) -> dict[str, str]:
        """Why entries have no speed to compare with the first baseline, by label.

        They ran on other machines, or shared theirs with other runs.
        """
        entries = self.study.entries
        if not entries:
            return {}
        base = self.study.baseline_in_context(entries[0])
        kept = {entry.label for entry in machines.on_equal_machines(entries, base)}
        excluded = {}
        for entry in entries:
            if entry.done and entry.label not in kept:
                is_shared = any(run.for_speed.shares_machine for run in entry.done)
                excluded[entry.label] = machines.SHARED if is_shared else "another machine"
        return excluded

    def restricted_to(self, entries: Sequence[Entry]) -> "Summary":
        """Return the results of these entries; verdicts and effects remain the whole study's."""
        kept = {entry.label for entry in entries}
        levels = {}
        for axis, labels in self.study.levels.items():
            used = {entry.axes[axis] for entry in entries}
            levels[axis] = tuple(label for label in labels if label in used)
        positions = self.study.positions or candidate_positions(self.study)
        study = replace(self.study, entries=tuple(entries), levels=levels, positions=positions)
        return replace(
            self,
            study=study,
            results={entry.label: self.results[entry.label] for entry in entries},
            comparisons=[row for row in self.comparisons if row.entry in kept],
            equivalence=[row for row in self.equivalence if row.entry in kept],
            spikes=[spike for spike in self.spikes if spike.entry in kept],
        )


def summarize(study: StudyResults, created_at: str) -> Summary:
    """Compute all results of a study."""
    checks = equivalence.check(study)
    statuses = equivalence.by_entry(checks)
    diverging = equivalence.diverging(checks)
    spikes = stability.spikes(study)
    spikes_by_entry: dict[str, list[Spike]] = {entry.label: [] for entry in study.entries}
    for spike in spikes:
        spikes_by_entry[spike.entry].append(spike)
    metric_tests = hypotheses.test_hypotheses(study, diverging)
    by_label = {entry.label: entry for entry in study.entries}
    comparisons = [
        _tested(row, hypotheses.repeated(study, by_label[row.entry]), metric_tests)
        for row in metrics.comparisons(study, diverging)
    ]
    caveats = find_caveats(study)
    leaking = {caveat.entry for caveat in caveats if caveat.entry and caveat.kind in LEAKS}
    task_scores = tasks.scores(study, diverging)
    results = {}
    for entry in study.entries:
        label = entry.label
        spikes_of_entry = spikes_by_entry[label]
        results[label] = _result(
            study, entry, statuses.get(label), spikes_of_entry, task_scores[label]
        )
    return Summary(
        study=study,
        created_at=created_at,
        results=results,
        comparisons=comparisons,
        metric_tests=metric_tests,
        rankings=budgets.rankings(study),
        savings=budgets.savings(study),
        variance=variance_components.variance_components(study),
        equivalence=checks,
        scaling=scaling.scaling(study, statuses),
        compared_contexts=contexts.compare_contexts(study, results),
        ladder=ladder.ladder(study, diverging, leaking),
        spikes=spikes,
        caveats=caveats,
        answer=find_answer(study, results, comparisons, metric_tests, caveats),
        tuning=tuning.results(study, metric_tests["val_loss"]),
    )


def _result(
    study: StudyResults,
    entry: Entry,
    status: EquivalenceStatus | None,
    spikes: list[Spike],
    task_scores: list[TaskScore],
) -> EntryResult:
    return EntryResult(
        **dict(metrics.result(entry, status)) | vars(stability.of_entry(entry, spikes)),
        decoding=decoding.measures(study, entry),
        lengths=eval_lengths.measures(study, entry),
        tasks=task_scores,
        corpora=corpora.measures(study, entry),
        phases=step_breakdown.phase_times(entry, status),
        traffic=step_breakdown.traffic_totals(entry),
        predicted_memory=step_breakdown.memory_comparison(entry),
        runs=[_run(run, spikes) for run in (*entry.runs, *entry.crossed)],
    )


def _tested(
    row: BaselineComparison, repeated: Entry | None, tests: Mapping[Quantity, MetricTests]
) -> BaselineComparison:
    """Return a comparison with the intervals of its tests, which agree with their verdicts.

    `repeated` is the entry whose loss is tested in place of this one's.
    """
    update: dict[str, object] = {}
    loss = tests["val_loss"].entries.get(row.entry)
    if loss is not None:
        in_bits = loss.unit == "bits per byte"
        update["bits_per_byte_difference" if in_bits else "val_loss_difference"] = loss.difference
        update["excludes_zero"] = excludes_zero(loss.difference.ci95)
    speed = tests["tokens_per_s"].entries.get(row.entry)
    has_ratio = row.tokens_per_s_ratio is not None or (speed and speed.method == "Welch")
    if speed is not None and has_ratio:
        update["tokens_per_s_ratio"] = metrics.as_ratio(speed.difference)
    update["repeats"] = repeated.label if repeated else None
    return row.model_copy(update=update)


def _run(run: RunData, spikes: list[Spike]) -> RunSummary:
    probes = run.probes
    return RunSummary(
        run_id=run.run_id,
        seed=run.seed,
        data_seed=run.order_seed,
        status=run.status,
        reason=run.reason,
        message=run.message,
        steps_recorded=len(run.steps),
        **vars(stability.of_runs([run], spikes)),
        initial_hash=probes.initial_hash if probes else None,
        final_hashes=probes.final_hashes if probes else None,
        attention_kernels=probes.attention_kernels if probes else None,
        peak_flops=probes.peak_flops if probes else None,
        flops_per_token_counted=probes.flops_per_token_counted if probes else None,
    )


def as_record(summary: Summary) -> StudySummary:
    """Return the content of summary.json."""
    study = summary.study
    spec = study.spec
    runs = Counter(run.status for run in study.runs)
    return StudySummary(
        study=study.name,
        created_at=summary.created_at,
        settings_hash=study.settings_hash or None,
        axes={axis: list(levels) for axis, levels in study.levels.items()},
        baseline=study.baseline,
        asked=study.asked,
        contexts=study.contexts,
        varied=summary.varied,
        settings=SharedSettings(model=spec.model, data=spec.data, train=spec.train)
        if spec
        else SharedSettings(),
        runs=dict(sorted(runs.items())),
        left_out=LeftOut(other_settings=study.left_out, superseded=study.superseded),
        study_file=study.followed.as_record() if study.followed is not None else None,
        selected=study.selected,
        settings_groups=list(study.settings_groups),
        unreadable=list(study.unreadable),
        caveats=summary.caveats,
        answer=summary.answer,
        entries=list(summary.results.values()),
        comparisons=summary.comparisons,
        verdicts=dict(summary.metric_tests),
        rankings=summary.rankings,
        savings=summary.savings,
        variance=summary.variance,
        equivalence=summary.equivalence,
        scaling=summary.scaling,
        compared_contexts=summary.compared_contexts,
        ladder=summary.ladder,
        spikes=summary.spikes,
        tuning=summary.tuning,
        environments=_environments(study.runs),
        imported=study.imported,
        looks=None if study.looks is None or study.looks.is_fixed else study.looks,
        launches=list(study.launches),
    )


def _environments(runs: list[RunData]) -> list[EnvironmentRuns]:
    """Return each distinct environment, without the place of a run, and the ids of its runs."""
    by_content: dict[str, tuple[Environment, list[str]]] = {}
    for run in runs:
        if run.env:
            env = run.env.without_place
            _, run_ids = by_content.setdefault(repr(env), (env, []))
            run_ids.append(run.run_id)
    return [EnvironmentRuns(env=env, runs=run_ids) for env, run_ids in by_content.values()]
