"""Read a study and group its runs into entries."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from multiprocessing import get_context

from harness.analysis import settings_groups
from harness.analysis.axis_levels import find_levels, is_context
from harness.analysis.followed import FollowedStudy
from harness.analysis.looks import find_looks, n_complete
from harness.analysis.selection import WHOLE, Selection, levels_of
from harness.analysis.settings_groups import Age, age_key
from harness.analysis.sharing import with_sharing
from harness.analysis.significance import ALPHA
from harness.errors import StoreError, UserError, choices
from harness.provenance.outdated import CodeChange, ComputedBy, changes_since
from harness.provenance.sources import Sources
from harness.results import titles
from harness.results.records import (
    ENDED,
    EquivalenceMargin,
    ImportedRun,
    ImportSource,
    LaunchRecord,
    Looks,
    RunSpec,
    Superiority,
    TuningRecord,
)
from harness.results.records.entries import EntryStatus
from harness.results.records.study_summary import SelectedEntries, SettingsGroup, Unreadable
from harness.results.run import Run
from harness.results.run_data import ABSENT, RunData, read_run
from harness.results.store import Store

# runs: fewer are read faster in one process, as starting others takes a second
PARALLEL_FROM = 1000


@dataclass(frozen=True)
class Entry:
    """The runs that differ only in the seed.

    `crossed` runs combine the initialization of one seed with the data order of another. They are
    not independent of the others, and are used for the variance components only.
    """

    label: str
    axes: dict[str, str]
    runs: tuple[RunData, ...]
    crossed: tuple[RunData, ...] = ()
    title: str = ""  # what people read; without one, the label

    def __post_init__(self) -> None:
        if not self.title:
            object.__setattr__(self, "title", self.label)

    @cached_property
    def done(self) -> tuple[RunData, ...]:
        """The runs that have results, by seed."""
        return tuple(run for run in self.runs if run.status == "done")

    @property
    def ended(self) -> list[RunData]:
        """The runs that are done or have failed."""
        return [run for run in self.runs if run.status in ENDED]

    @property
    def ended_seeds(self) -> list[int]:
        """The seeds of the runs that are done or have failed."""
        return [run.seed for run in self.ended]

    def on_seeds(self, seeds: Collection[int]) -> "Entry":
        """Return the entry with its runs of these seeds."""
        return replace(self, runs=tuple(run for run in self.runs if run.seed in seeds))

    @property
    def lost_seeds(self) -> list[int]:
        """The seeds whose runs failed: those that are left are a selection."""
        return [run.seed for run in self.runs if run.status == "failed"]

    @property
    def status(self) -> EntryStatus:
        """The status of all runs if it is the same, else the number of runs by status."""
        counts = Counter(run.status for run in self.runs)
        return self.runs[0].status if len(counts) == 1 else dict(sorted(counts.items()))


@dataclass(frozen=True)
class StudyResults:
    """The runs of a study that may be compared: those with the same model, data and training.

    `levels` has the labels of each axis, the baseline's first; those of a context axis that varies
    settings are ordered by these. A verdict compares entries that differ on `asked` axes and agree
    on all `contexts`. `left_out` is the number of runs with other settings, `superseded` that of
    runs replaced by a newer run of the same entry and seed. `spec` is that of the newest run, None
    without runs and for imported ones. `changes` has the changes of the code since outdated runs,
    by run id; `folder` holds the results.
    """

    name: str
    settings_hash: str
    spec: RunSpec | None
    levels: dict[str, tuple[str, ...]]
    baseline: dict[str, str]
    entries: tuple[Entry, ...]
    left_out: int
    superseded: int
    unreadable: tuple[Unreadable, ...]
    launches: tuple[LaunchRecord, ...]
    changes: dict[str, CodeChange] = field(default_factory=dict)
    folder: str = ""
    compare: tuple[str, ...] | None = None  # axes that the newest launch asks about; None: all
    trials: tuple[RunData, ...] = ()  # of the tuning; they are in no entry
    tuning: TuningRecord | None = None  # settings tried and chosen
    titles: dict[str, dict[str, str]] = field(default_factory=dict)  # by axis and label
    positions: Mapping[str, int] = field(default_factory=dict)  # of candidates in the whole study
    followed: FollowedStudy | None = None  # the study file that replaces what launches state
    selected: SelectedEntries | None = None
    settings_groups: tuple[SettingsGroup, ...] = ()  # if the runs have several settings

    @property
    def runs(self) -> list[RunData]:
        """All runs of all entries, crossed ones included."""
        return [run for entry in self.entries for run in (*entry.runs, *entry.crossed)]

    @property
    def margins(self) -> dict[str, float]:
        """The equivalence margins by metric, from the newest launch with these settings."""
        if self.followed is not None:
            return self.followed.margins
        return _newest_stated(launch.equivalence_margin for launch in self.own_launches)

    @cached_property
    def looks(self) -> Looks | None:
        """The looks at these results, None without runs."""
        replanned = self.followed.replanned if self.followed is not None else None
        launches = (*self.launches, replanned) if replanned is not None else self.launches
        return find_looks(launches, self._seed_runs)

    @cached_property
    def n_complete_looks(self) -> int:
        """The number of looks whose runs have all ended, from the first on."""
        return 0 if self.looks is None else n_complete(self.looks, self._seed_runs)

    @property
    def level(self) -> float:
        """The level of the last look whose runs have all ended, before any that of the first."""
        if self.looks is None:
            return ALPHA
        return self.looks.looks[max(0, self.n_complete_looks - 1)].level

    @property
    def _seed_runs(self) -> list[RunData]:
        return [run for entry in self.entries for run in entry.runs]

    @cached_property
    def first_runs(self) -> dict[int, RunData]:
        """The run of each seed that others are measured against: the baseline's if it is done."""
        first: dict[int, RunData] = {}
        base = self.find(self.entries[0].axes | self.baseline) if self.entries else None
        for entry in (*([base] if base else []), *self.entries):
            for run in entry.done:
                first.setdefault(run.seed, run)
        return first

    @cached_property
    def imported(self) -> bool:
        """Whether the runs are of another trainer."""
        return any(run.imported is not None for run in self.runs)

    @property
    def source(self) -> ImportSource | None:
        """The table that the runs were imported from; None if they are of this harness."""
        return self.launches[-1].imported if self.launches and self.imported else None

    @property
    def superiority(self) -> dict[str, float]:
        """The thresholds of improvement by metric, from the newest launch with these settings."""
        if self.followed is not None:
            return self.followed.superiority
        return _newest_stated(launch.superiority for launch in self.own_launches)

    @property
    def own_launches(self) -> list[LaunchRecord]:
        """The launches with these settings, the newest first."""
        launches = reversed(self.launches)
        return [launch for launch in launches if launch.settings_hash == self.settings_hash]

    def varying(self) -> list[str]:
        """Return the axes on which entries differ."""
        return [axis for axis, levels in self.levels.items() if len(levels) > 1]

    @cached_property
    def asked(self) -> list[str]:
        """The varying axes whose levels are compared."""
        return [axis for axis in self.varying() if not is_context(axis, self.compare)]

    @cached_property
    def contexts(self) -> list[str]:
        """The other varying axes: verdicts compare entries with equal labels on them."""
        return [axis for axis in self.varying() if is_context(axis, self.compare)]

    def context_of(self, entry: Entry) -> dict[str, str]:
        """Return the entry's label on each context axis."""
        return {axis: entry.axes[axis] for axis in self.contexts}

    def by_context(self) -> dict[str, list[Entry]]:
        """Return the entries of each context by its name, in the order of its settings."""
        groups: dict[str, list[Entry]] = {}
        for entry in sorted(self.entries, key=self._context_position):
            groups.setdefault(self.context_name(entry), []).append(entry)
        return groups

    def _context_position(self, entry: Entry) -> list[int]:
        labels = self.context_of(entry).items()
        return [self.levels[axis].index(label) for axis, label in labels]

    def baseline_of(self, entry: Entry) -> Entry | None:
        """Return the entry that this one is compared with; None for a baseline itself.

        It has the baseline's label on each axis that has one, but the entry's own labels on context
        axes.
        """
        base = self.baseline_in_context(entry)
        return None if base is entry else base

    def baseline_in_context(self, entry: Entry) -> Entry | None:
        """Return the baseline of the entry's context, which may be the entry itself."""
        return self.find(entry.axes | self.baseline | self.context_of(entry))

    def context_name(self, entry: Entry) -> str:
        """Return the entry's labels on the context axes, as one name; empty without any."""
        return titles.SEPARATOR.join(self.context_of(entry).values())

    def context_title(self, name: str) -> str:
        """Return what people read in place of the name of a context."""
        return self._context_titles.get(name, name)

    @cached_property
    def _context_titles(self) -> dict[str, str]:
        return {
            self.context_name(entry): self.title_of(self.context_of(entry))
            for entry in self.entries
        }

    def title(self, axis: str, label: str) -> str:
        """Return what people read in place of a label on an axis."""
        return self.titles.get(axis, {}).get(label, label)

    def title_of(self, levels: Mapping[str, str]) -> str:
        """Return the joined titles of the labels on some axes."""
        return titles.of_levels(levels, self.titles)

    def entry_title(self, label: str) -> str:
        """Return what people read in place of the label of an entry."""
        return self._entry_titles.get(label, label)

    @cached_property
    def _entry_titles(self) -> dict[str, str]:
        return {entry.label: entry.title for entry in self.entries}

    def find(self, axes: dict[str, str]) -> Entry | None:
        """Return the entry with these labels, None if there is none."""
        return self._by_labels.get(frozenset(axes.items()))

    @cached_property
    def _by_labels(self) -> dict[frozenset[tuple[str, str]], Entry]:
        return {frozenset(entry.axes.items()): entry for entry in reversed(self.entries)}


def read(
    store: Store,
    study: str,
    wanted: Callable[[RunData], bool] | None = None,
    following: FollowedStudy | None = None,
    selection: Selection = WHOLE,
) -> StudyResults:
    """Read the runs with the newest launch's settings; files that cannot be read are listed.

    If `wanted` is given, all other runs are ignored. A study that is followed states axes, labels,
    baseline, margins and looks in place of the launches; of several settings, those that its file
    states are reported, if there are such runs.

    Raises:
        UserError: the study has no results, or nothing matches the selection.
    """
    found = _read_all(store.runs(study))
    if not found:
        raise UserError(
            f"study '{study}' has no results in {store.root}; run it first: "
            f"python -m harness run STUDY.toml ({choices(study, store.studies())})"
        )
    unreadable = [run for run in found if isinstance(run, Unreadable)]
    readable = with_sharing([run for run in found if isinstance(run, RunData)])
    runs = [run for run in readable if wanted is None or wanted(run)]
    launches: list[LaunchRecord] = []
    try:
        launches = store.launches(study)
        if not launches:
            why = (
                f"{store.root / study}: launches.jsonl is missing or empty: the order of the runs, "
            )
            unreadable.append(Unreadable(name="launches.jsonl", why=f"{why}commands are unknown"))
    except StoreError as error:
        unreadable.append(Unreadable(name="launches.jsonl", why=str(error)))
    if not runs:
        return StudyResults(study, "", None, {}, {}, (), 0, 0, tuple(unreadable), tuple(launches))

    age = age_key(launches)
    settings_hash = settings_groups.choose(runs, launches, following, selection)
    comparable = [run for run in runs if run.spec.settings_hash == settings_hash]
    groups = settings_groups.groups(runs, settings_hash)
    n_left_out = len(runs) - len(comparable)
    tuning = _tuning(store, study, settings_hash, unreadable)
    if following is not None:
        following = following.compared_with(max(comparable, key=age))
        comparable, following = following.place(comparable)
        following = following.planned(launches, settings_hash, store.archive(study))
        tuning = following.tuning(tuning)
        if not comparable:
            raise UserError(
                f"{following.stated.path}: no entry of this study file has results in "
                f"{store.root / study}: run it, or name the study for a report of its "
                f"{following.n_left_out:,} runs"
            )
    trials = [run for run in comparable if run.spec.tuning is not None]
    compared = [run for run in comparable if run.spec.tuning is None]
    newest = max(compared or trials, key=age)
    compare = following.compare if following else _compare(launches, settings_hash)
    current = _current(compared, age)
    levels_of_all = levels_of(current)
    baseline = newest.spec.baseline | selection.baseline_labels(levels_of_all)
    kept = selection.select(current, levels_of_all, baseline, compare)
    levels = find_levels(kept, baseline, compare)
    level_titles = _titles(kept, levels, age)
    return StudyResults(
        name=study,
        settings_hash=settings_hash,
        spec=newest.spec if isinstance(newest.spec, RunSpec) else None,
        levels=levels,
        baseline=baseline,
        entries=_entries(kept, levels, level_titles),
        left_out=n_left_out,
        superseded=len(compared) - len(current),
        unreadable=tuple(unreadable),
        launches=tuple(launches),
        changes=_changes(store, study, readable),
        folder=str(store.root / study),
        compare=compare,
        trials=tuple(trials),
        tuning=tuning,
        titles=level_titles,
        followed=following,
        selected=selection.as_record(current, kept),
        settings_groups=groups,
    )


def _titles(
    runs: Iterable[RunData], levels: Mapping[str, Iterable[str]], age: Age
) -> dict[str, dict[str, str]]:
    """Return the distinct title of each label by axis, as the newest run states it."""
    found: dict[str, dict[str, str]] = {axis: dict.fromkeys(levels[axis], "") for axis in levels}
    for run in sorted(runs, key=age):
        for axis, choice in run.spec.axes.items():
            found[axis][choice.label] = choice.title or choice.label
    return {axis: titles.distinct(by_label) for axis, by_label in found.items()}


def _tuning(
    store: Store, study: str, settings_hash: str, unreadable: list[Unreadable]
) -> TuningRecord | None:
    """Return the record of the tuning of these settings; a damaged file is added to the list."""
    try:
        record = store.tuning(study)
    except StoreError as error:
        unreadable.append(Unreadable(name="tuning.json", why=str(error)))
        return None
    return record if record and record.settings_hash == settings_hash else None


def _changes(store: Store, study: str, runs: list[RunData]) -> dict[str, CodeChange]:
    """Return the changes of the present code since the code that computed the runs, by run id."""
    computed_by = {}
    own = [run for run in runs if not run.imported]
    for run in own:
        if run.status not in ("pending", "running"):
            computed_by[run.run_id] = ComputedBy(run.resolved.code_hash, run.accepted_code_hash)
    specs = [run.resolved for run in own]
    return changes_since(store.archive(study), specs, computed_by, Sources())


def _read_all(runs: list[Run]) -> list[RunData | Unreadable]:
    """Read the runs, in several processes if there are many."""
    if len(runs) < PARALLEL_FROM:
        return [read_run(run) for run in runs]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as readers:
        return list(readers.map(read_run, runs, chunksize=50))


def _current(runs: list[RunData], age: Age) -> list[RunData]:
    """Keep the newest run of each entry and seed, and only runs with the entry's newest settings.

    Settings that vary between entries are not in the settings hash, so that a study may have runs
    of the same labels with others.
    """
    newest: dict[str, RunSpec | ImportedRun] = {}
    kept: dict[tuple[str, int, int], RunData] = {}
    for run in sorted(runs, key=age, reverse=True):
        entry = run.spec.entry
        if _same_settings(newest.setdefault(entry, run.spec), run.spec):
            kept.setdefault((entry, run.seed, run.order_seed), run)
    return list(kept.values())


def _same_settings(spec: RunSpec | ImportedRun, other: RunSpec | ImportedRun) -> bool:
    """Return whether two runs differ only in their seeds; another name of a text is the same."""
    if isinstance(spec, ImportedRun) or isinstance(other, ImportedRun):
        return _levels(spec) == _levels(other)
    not_hashed = {"corpus": other.data.corpus, "separator": other.data.separator}
    data = spec.data.model_copy(update=not_hashed)
    return (
        _levels(spec) == _levels(other)
        and spec.model == other.model
        and spec.train == other.train
        and data == other.data
    )


def _levels(spec: RunSpec | ImportedRun) -> dict[str, tuple[str, str, dict[str, object]]]:
    """Return the choice on each axis without its title, which the study may change."""
    return {axis: (choice.name, choice.label, choice.options) for axis, choice in spec.axes.items()}


def _newest_stated(records: Iterable[EquivalenceMargin | Superiority | None]) -> dict[str, float]:
    """Return the numbers of the first record, by metric; empty without one."""
    first = next((record for record in records if record is not None), None)
    return {} if first is None else first.model_dump(exclude_none=True)


def _compare(launches: list[LaunchRecord], settings_hash: str) -> tuple[str, ...] | None:
    """Return the axes that the newest launch of these settings asks about; None for all."""
    for launch in reversed(launches):
        if launch.settings_hash == settings_hash:
            return None if launch.compare is None else tuple(launch.compare)
    return None


def _entries(
    runs: list[RunData],
    levels: dict[str, tuple[str, ...]],
    level_titles: Mapping[str, Mapping[str, str]],
) -> tuple[Entry, ...]:
    by_entry: dict[str, list[RunData]] = {}
    for run in sorted(runs, key=lambda run: (run.seed, run.order_seed)):
        by_entry.setdefault(run.spec.entry, []).append(run)
    entries = []
    for label, group in by_entry.items():
        axes = {axis: group[0].labels.get(axis, ABSENT) for axis in levels}
        paired = tuple(run for run in group if run.order_seed == run.seed)
        crossed = tuple(run for run in group if run.order_seed != run.seed)
        if paired:
            entries.append(Entry(label, axes, paired, crossed))
    position = {
        axis: {label: i for i, label in enumerate(labels)} for axis, labels in levels.items()
    }
    entries.sort(key=lambda entry: [position[axis][label] for axis, label in entry.axes.items()])
    named = titles.of_entries({entry.label: entry.axes for entry in entries}, level_titles)
    return tuple(replace(entry, title=named[entry.label]) for entry in entries)
