"""The runs of a study that tunes: trials of each entry, and final runs with the chosen settings."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config.entries import EntryResolver, PlannedEntry
from harness.config.tuning import Tuning, setting_label
from harness.config.unread import why_unread
from harness.data.batches import evaluation_offsets
from harness.data.corpus import Corpus
from harness.errors import Problem
from harness.results.records import (
    RunSpec,
    SettingValues,
    TuneSettings,
    TuningTrial,
    VariantChoice,
)
from harness.results.records.tuning import TUNED, TUNING, UNTUNED
from harness.study.axes import VariantSelection, entry_id
from harness.study.settings import Change, Settings

MAX_TRIALS = 100_000  # of a study

EntryTrial = tuple[PlannedEntry, TuningTrial | None]  # None: a final run
# Builds the runs of entries for each seed, with the runs that they start from.
BuildRuns = Callable[[Sequence[EntryTrial], Sequence[int]], list[RunSpec]]


@dataclass(frozen=True)
class TunedLevels:
    """The levels of one entry on the axis `tuning`: its own settings, and those that it tries.

    `tried` is the entry at each of the settings, in their order, and `rungs` the same with the
    steps of each rung.
    """

    name: str
    untuned: PlannedEntry
    tried: Sequence[PlannedEntry]
    rungs: Sequence[Sequence[PlannedEntry]]

    @property
    def all(self) -> list[PlannedEntry]:
        """The entry at all levels."""
        return [self.untuned, *self.tried, *(entry for rung in self.rungs for entry in rung)]

    @property
    def untuned_settings(self) -> SettingValues:
        """The study's own values of the tuned settings."""
        return self.untuned.choices[TUNING].options


def resolve_levels(
    entry: PlannedEntry, tuning: Tuning, baseline: VariantSelection, resolver: EntryResolver
) -> TunedLevels | None:
    """Return the levels of an entry, None if its settings are invalid, as the resolver reports."""
    tried = _resolve_points(entry, tuning, baseline, resolver)
    rungs = [
        _resolve_points(entry, tuning, baseline, resolver, steps) for steps in tuning.settings.rungs
    ]
    if any(len(entries) < len(tuning.points) for entries in (tried, *rungs)):
        return None
    values = {key: entry.settings.value(key) for key in tuning.keys}
    name = entry_id(entry.choices, resolver.file)
    return TunedLevels(name, _at_level(entry, UNTUNED, values), tried, rungs or [tried])


def _resolve_points(
    entry: PlannedEntry,
    tuning: Tuning,
    baseline: VariantSelection,
    resolver: EntryResolver,
    steps: int | None = None,
) -> list[PlannedEntry]:
    """Return an entry at each of the settings, without those that are invalid."""
    entries = []
    for point in tuning.points:
        changes = {key: Change(value, f'tune.axes."{key}"') for key, value in point.items()}
        if steps is not None:
            changes["train.steps"] = Change(steps, "tune.rungs")
        planned = resolver.resolve(entry.original, baseline, changes)
        if planned is not None:
            entries.append(_at_level(planned, setting_label(point), point))
    return entries


def _at_level(entry: PlannedEntry, label: str, values: Mapping[str, object]) -> PlannedEntry:
    choice = VariantChoice(name=TUNING, label=label, options=dict(values))
    return dataclasses.replace(entry, choices=entry.choices | {TUNING: choice})


def _tuned(levels: TunedLevels, values: SettingValues, index: int) -> PlannedEntry:
    """Return the entry that has chosen the settings of this number."""
    return _at_level(levels.tried[index], TUNED, values)


def check_options(
    location: str, entries: Sequence[PlannedEntry], tuning: Tuning, paths: Sequence[Path]
) -> Iterator[Problem]:
    """Each entry reads the settings of [train] that are tuned."""
    problems: dict[Problem, None] = {}
    for key in tuning.keys:
        for entry in entries:
            reason = why_unread(entry, key, key, paths)
            if reason is not None:
                problem = Problem(
                    f'{location}: tune.axes."{key}"', f"{reason}, or remove the tuned key"
                )
                problems[problem] = None
    yield from problems


def check_windows(location: str, corpus: Corpus, settings: Settings) -> Iterator[Problem]:
    """There are validation windows for the trials, and others for the final runs."""
    train = settings.train
    limit = None if train.eval_tokens == "all" else train.eval_tokens
    seq_len = settings.model.seq_len
    n_windows = len(evaluation_offsets(Corpus.n_tokens(corpus.val), seq_len, limit))
    if n_windows < 2:
        yield Problem(
            f"{location}: {settings.place('train.eval_tokens', 'model.seq_len')}",
            f"gives {n_windows} validation window; a study that tunes needs at least 2, as trials "
            "and final runs are evaluated on different ones",
        )


@dataclass(frozen=True)
class TuningPlan:
    """The tuning of a study. `levels` are those of all its entries, `selected` names some.

    `seeds` are those of the final runs.
    """

    tuning: Tuning
    levels: Sequence[TunedLevels]
    selected: Collection[str]
    seeds: Sequence[int]
    build: BuildRuns
    settings_hash: str  # of the study: trials of fewer steps belong to it, too

    @property
    def settings(self) -> TuneSettings:
        """The tuning, as it is recorded."""
        return self.tuning.settings

    @property
    def points(self) -> Sequence[SettingValues]:
        """The settings that each entry tries."""
        return self.tuning.points

    @property
    def n_rungs(self) -> int:
        """The number of rungs; 1 without halving."""
        return max(1, len(self.settings.rungs))

    def trials(self, rung: int, numbers: Mapping[str, Collection[int]]) -> list[RunSpec]:
        """Return the trials of a rung, of each entry at the settings of these numbers.

        They are ordered by seed, after the runs that they start from.
        """
        entries: list[EntryTrial] = []
        for levels in self.levels:
            for index in sorted(numbers.get(levels.name, ())):
                trial = TuningTrial(
                    entry=levels.name, settings=dict(self.points[index]), index=index, rung=rung
                )
                entries.append((levels.rungs[rung][index], trial))
        runs = []
        for spec in self.build(entries, self.settings.seeds):
            update = {"settings_hash": self.settings_hash} if spec.tuning is not None else {}
            runs.append(spec.model_copy(update=update))
        return runs

    def possible_runs(self) -> list[RunSpec]:
        """Return the runs of all results that trials may have: each setting may be chosen."""
        numbers = dict.fromkeys((levels.name for levels in self.levels), range(len(self.points)))
        finals: list[EntryTrial] = []
        for levels in self.levels:
            finals.append((levels.untuned, None))
            finals += [(_tuned(levels, point, i), None) for i, point in enumerate(self.points)]
        trials = [spec for rung in range(self.n_rungs) for spec in self.trials(rung, numbers)]
        return [*trials, *self.build(finals, self.seeds)]

    def finals(self, chosen: Mapping[str, SettingValues]) -> list[RunSpec]:
        """Return the final runs of the selected entries: untuned, and tuned if one has chosen."""
        entries: list[EntryTrial] = []
        for levels in self.levels:
            if levels.name in self.selected:
                entries.append((levels.untuned, None))
                if levels.name in chosen:
                    values = chosen[levels.name]
                    index = [*self.points].index(values)
                    entries.append((_tuned(levels, values, index), None))
        return self.build(entries, self.seeds)
