"""The stages of a study, such as those of one that tunes: trials, rung by rung, then final runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from harness.analysis.tuning import choose, rank_settings
from harness.cli.look_stages import look_stages
from harness.config import PlannedStudy, TunedLevels, TuningPlan
from harness.preflight import check_study
from harness.results.records import ENDED, RunSpec, SettingValues, TunedEntry, TuningRecord
from harness.results.run_data import RunData, read_run
from harness.results.store import Store


@dataclass(frozen=True)
class EntryProgress:
    """How far the tuning of one entry is. `trials` are those of each rung that it has reached."""

    tuned: TunedEntry
    trials: Sequence[Sequence[RunSpec]]
    numbers: Sequence[Sequence[int]]  # of the settings, for each of these rungs
    n_ended: int


@dataclass(frozen=True)
class TuningProgress:
    """How far the tuning of a study is, by the name of the entry, from the stored trials."""

    entries: Mapping[str, EntryProgress]

    @cached_property
    def chosen(self) -> dict[str, SettingValues]:
        """The chosen settings of the entries that have any."""
        return {
            name: entry.tuned.chosen
            for name, entry in self.entries.items()
            if entry.tuned.chosen is not None
        }

    def numbers(self, rung: int) -> dict[str, Sequence[int]]:
        """Return the numbers of the settings that each entry tries at a rung."""
        return {
            name: entry.numbers[rung]
            for name, entry in self.entries.items()
            if rung < len(entry.numbers)
        }


def read_progress(plan: TuningPlan, store: Store) -> TuningProgress:
    """Return how far the tuning of all entries of a study is."""
    return TuningProgress({levels.name: _follow(plan, levels, store) for levels in plan.levels})


def _follow(plan: TuningPlan, levels: TunedLevels, store: Store) -> EntryProgress:
    """Follow an entry through the rungs as far as all trials of a rung have ended."""
    numbers: list[list[int]] = [list(range(len(plan.points)))]
    trials: list[list[RunSpec]] = []
    ended: list[RunData] = []
    n_rungs = len(levels.rungs)
    is_complete = False
    for rung in range(n_rungs):
        specs = [spec for spec in plan.trials(rung, {levels.name: numbers[rung]}) if spec.tuning]
        trials.append(specs)
        runs = [run for run in (_read_ended(store, spec) for spec in specs) if run is not None]
        ended += runs
        is_complete = len(runs) == len(specs)
        if not is_complete or rung == n_rungs - 1:
            break
        numbers.append(rank_settings(runs)[: len(numbers[rung]) // 2])
    tuned = TunedEntry(
        entry=levels.name,
        untuned=levels.untuned_settings,
        trials=[spec.run_id for specs in trials for spec in specs],
    )
    if is_complete:
        tuned = choose(tuned, ended)
    return EntryProgress(tuned, trials, numbers, len(ended))


def _read_ended(store: Store, spec: RunSpec) -> RunData | None:
    """Return a trial that has ended, None if it has not or if it cannot be read."""
    run = store.run(spec.study, spec.run_id)
    if not run.exists or run.outcome.status not in ENDED:
        return None
    data = read_run(run)
    if not isinstance(data, RunData):
        return None
    # The study may have numbered its settings otherwise when it ran.
    return replace(data, spec=data.spec.model_copy(update={"tuning": spec.tuning}))


def stages(
    planned: PlannedStudy, store: Store, log: Callable[[str], None]
) -> Iterator[PlannedStudy]:
    """Yield the stages of a study, each planned from the results of those before.

    The final runs come when all trials were started; those of entries whose trials have not ended
    are untuned only. A study with looks has a stage for each. All others have a single stage.
    """
    plan = planned.tuning
    if planned.looks is not None:
        yield from look_stages(planned, store, log)
        return
    if plan is None:
        yield planned
        return
    for rung in range(plan.n_rungs):
        numbers = read_progress(plan, store).numbers(rung)
        selected = {name: numbers[name] for name in plan.selected if name in numbers}
        trials = plan.trials(rung, selected)
        if trials:
            yield planned.stage(trials)
    yield planned.stage(plan.finals(read_progress(plan, store).chosen))


def checked_stages(
    planned: PlannedStudy, store: Store, study: Path, log: Callable[[str], None]
) -> Iterator[PlannedStudy]:
    """Yield the stages of a checked study; check each that was not planned at the start.

    Raises:
        UserError: a model of a later stage cannot be built.
    """
    for stage in stages(planned, store, log):
        yield stage if stage is planned else check_study(stage, str(study), log)


def record_tuning(planned: PlannedStudy, store: Store) -> None:
    """Write the settings that entries have tried and chosen, if the study tunes."""
    if planned.tuning is None:
        return
    progress = read_progress(planned.tuning, store)
    record = TuningRecord(
        settings_hash=planned.settings_hash,
        settings=planned.tuning.settings,
        entries=[entry.tuned for entry in progress.entries.values()],
    )
    store.record_tuning(planned.name, record)


def unfinished(planned: PlannedStudy, store: Store) -> list[str]:
    """Return a line for each selected entry that should be tuned and is not, with the reason."""
    plan = planned.tuning
    if plan is None:
        return []
    progress = read_progress(plan, store)
    lines = []
    for name in plan.selected:
        entry = progress.entries[name]
        n_trials = len(entry.tuned.trials)
        if entry.tuned.chosen is None:
            reason = f"{n_trials - entry.n_ended} of {n_trials} trials have not ended"
            if entry.n_ended == n_trials:
                reason = "each of its settings has a trial that failed"
            lines.append(f"{name}: not tuned, {reason}")
    return lines
