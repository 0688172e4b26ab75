"""Start the runs of one stage of a study, and count those that are done."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from harness.cli.output import command_line, log
from harness.config import PlannedStudy
from harness.launch import scheduler
from harness.launch.backend import Backend, Stopped
from harness.launch.local import LocalBackend
from harness.launch.placement import randomize_within_seed
from harness.launch.relabelled import relabel, relabelled_runs
from harness.launch.scheduler import RunSelection
from harness.launch.time_summary import time_summary
from harness.provenance.archive import archive_code, archive_inputs
from harness.provenance.corpora import replaced_corpora
from harness.provenance.outdated import CodeChange, acceptable, find_changes
from harness.results.records import RunSpec
from harness.results.records.tuning import TUNED, TUNING, UNTUNED
from harness.results.run import Run
from harness.results.store import Store


@dataclass(frozen=True)
class Launch:
    """The options of a call of `run`."""

    study: Path
    settings: Sequence[str]
    seeds: str | None
    where: Sequence[str]
    retry_failed: bool
    fail_fast: bool
    accept_outdated: bool
    trace: bool
    order: Callable[[Sequence[RunSpec]], list[RunSpec]] = randomize_within_seed

    def select(
        self, stage: PlannedStudy, store: Store
    ) -> tuple[RunSelection, list[RunSpec], Mapping[str, CodeChange]]:
        """Log and return the runs of a stage by state, the runs to do in order, and acceptances."""
        equal = relabelled_runs(store, stage.name, stage.runs, stage.all_run_ids)
        changes = find_changes(store, stage.name, stage.runs, stage.sources)
        accepted = acceptable(store, stage.name, changes) if self.accept_outdated else {}
        selection = scheduler.select_runs(store, stage.runs, changes | accepted, self.retry_failed)
        todo = self.order(selection.todo)
        if equal:  # in a dry run
            log(f"{len(equal)} runs have results under other labels, which `run` gives their names")
            todo = [spec for spec in todo if _must_train(spec, equal)]
        title = f"{stage.name}, trials" if is_trials(stage) else stage.name
        if stage.looks is not None and stage.look is not None:
            title = f"{stage.name}, look {stage.look} of {len(stage.looks.looks)}"
        log(f"{title}: {len(stage.runs)} runs, {len(selection.done)} done, {len(todo)} to do")
        for note in (*replaced_corpora(store, stage.name, stage.runs), *selection.notes()):
            log(note)
        if accepted:
            log(f"{len(accepted)} outdated runs are kept as results; the report marks them")
        return selection, todo, accepted

    def start(self, stage: PlannedStudy, store: Store, backend: Backend) -> bool:
        """Start the runs of a stage that are to do; return whether all are done.

        Raises:
            typer.Exit: the user stopped it.
        """
        started = time.time()
        self._relabel(stage, store)
        selection, todo, accepted = self.select(stage, store)
        if self.trace:
            todo = [spec.traced() for spec in todo]
        scheduler.plan_runs(store, stage.name, todo, stage.all_run_ids)
        scheduler.update_study_fields(store, [*selection.done, *selection.failed])
        for spec in stage.runs:
            if spec.run_id in accepted:
                store.run(spec.study, spec.run_id).accept(spec)
        archive = store.archive(stage.name)
        archive_code(archive, stage.codes())
        seeds = self.seeds
        if stage.looks is not None and stage.look is not None:
            seeds = ",".join(map(str, stage.looks.seeds_at(stage.look)))
        inputs = archive_inputs(archive, self.study, self.settings, seeds, self.where)
        launch = stage.launch_record(command_line(), todo, inputs, list(accepted))
        store.record_launch(stage.name, launch)
        equal = equal_to_untuned(stage.runs)
        trained = [spec for spec in todo if spec.run_id not in equal]
        try:
            backend.run_all(store, [*trained, *selection.running], self.fail_fast)
        except Stopped as error:
            log(str(error))
            raise typer.Exit(error.code) from error
        copied = [spec for spec in todo if spec.run_id in equal]
        if copied:
            n_copied = scheduler.copy_runs(store, copied, equal)
            log(f"{n_copied} tuned runs have the study's own settings: copies of the untuned runs")
        changes = find_changes(store, stage.name, stage.runs, stage.sources)
        after = scheduler.select_runs(store, stage.runs, changes)
        diverged = [spec for spec in after.failed if is_diverged_trial(store, spec)]
        scheduler.remove_left_files(store, stage.name, after.done)
        log(f"{len(after.done)} of {len(stage.runs)} done")
        if diverged:
            log(f"{len(diverged)} trials diverged, which counts as an infinite loss")
        if trained:
            log(time_summary(store, trained, started, time.time()))
        return len(after.done) + len(diverged) == len(stage.runs)

    def _relabel(self, stage: PlannedStudy, store: Store) -> None:
        """Give stored runs that equal a run of the stage its labels."""
        equal = relabelled_runs(store, stage.name, stage.runs, stage.all_run_ids)
        by_id = {spec.run_id: spec for spec in stage.runs}
        n_relabelled = sum(relabel(store, by_id[run_id], run) for run_id, run in equal.items())
        if n_relabelled:
            log(f"{n_relabelled} runs have results under other labels, and get the present ones")

    def time_runs(
        self, stage: PlannedStudy, store: Store, backend: LocalBackend, n_steps: int
    ) -> None:
        """Time the runs of a stage that shared this machine.

        Raises:
            typer.Exit: the user stopped it.
        """
        try:
            backend.time_runs(store, stage.runs, n_steps)
        except Stopped as error:
            log(str(error))
            raise typer.Exit(error.code) from error


def _must_train(spec: RunSpec, equal: Mapping[str, Run]) -> bool:
    """Return whether a run has no result under other labels."""
    return spec.run_id not in equal or equal[spec.run_id].outcome.status != "done"


def is_trials(stage: PlannedStudy) -> bool:
    """Return whether a stage has trials."""
    return any(spec.tuning is not None for spec in stage.runs)


def is_diverged_trial(store: Store, spec: RunSpec) -> bool:
    """Return whether a run is a trial whose loss became infinite, which is its result."""
    return spec.tuning is not None and store.run(spec.study, spec.run_id).outcome.reason == "nan"


def equal_to_untuned(runs: Sequence[RunSpec]) -> dict[str, str]:
    """Return the tuned runs whose settings are the study's own, with the untuned run of each."""
    untuned = {}
    for spec in runs:
        if spec.labels.get(TUNING) == UNTUNED:
            untuned[_key(spec)] = spec
    equal = {}
    for spec in runs:
        other = untuned.get(_key(spec)) if spec.labels.get(TUNING) == TUNED else None
        if other is not None and (spec.model, spec.train) == (other.model, other.train):
            equal[spec.run_id] = other.run_id
    return equal


def _key(spec: RunSpec) -> tuple[str, str]:
    """Return a key of the entry without its level on the axis `tuning`, and of the seeds."""
    labels = {axis: label for axis, label in spec.labels.items() if axis != TUNING}
    return str(labels), spec.seed_name
