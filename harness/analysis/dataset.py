"""Sort a study's runs into entries; nothing is measured or drawn here."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context

from harness.errors import UserError, choices
from harness.results.files import StoreError
from harness.results.frames import ABSENT
from harness.results.records import LaunchRecord, RunSpec, VariantChoice
from harness.results.run_data import RunData, Unreadable, read_run
from harness.results.store import Run, Store

MANY = 1000  # runs


Age = Callable[[RunData], tuple[int, str]]  # sorts runs


@dataclass(frozen=True)
class Entry:
    """The runs that differ in nothing but the seed.

    `crossed` have the first values of one seed and the order of the data of another. They are not independent of the
    others, so that all but the shares of the noise is worked out without them.
    """

    label: str
    axes: dict[str, str]
    runs: tuple[RunData, ...]
    crossed: tuple[RunData, ...] = ()

    @cached_property
    def done(self) -> tuple[RunData, ...]:
        """The runs that have results, by seed."""
        return tuple(run for run in self.runs if run.status == "done")

    @property
    def status(self) -> str | dict[str, int]:
        """The status that all runs share, or else how many have which."""
        counts = Counter(run.status for run in self.runs)
        return self.runs[0].status if len(counts) == 1 else dict(sorted(counts.items()))


@dataclass(frozen=True)
class StudyResults:
    """The runs of a study that may stand in one table: those with one and the same model, data and training.

    `levels` lists each axis's labels, the baseline's first. `left_out` counts runs of other settings, `superseded`
    those that a newer run of the same entry and seed replaces.
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

    @property
    def runs(self) -> list[RunData]:
        """All runs that the report tells of."""
        return [run for entry in self.entries for run in (*entry.runs, *entry.crossed)]

    @property
    def margins(self) -> dict[str, float]:
        """How much makes no difference, by quantity, as the newest launch of these settings states it."""
        for launch in reversed(self.launches):
            if launch.settings_hash == self.settings_hash and launch.equivalence_margin is not None:
                return launch.equivalence_margin.model_dump(exclude_none=True)
        return {}

    def varying(self) -> list[str]:
        """Return the axes on which entries differ."""
        return [axis for axis, levels in self.levels.items() if len(levels) > 1]

    def find(self, axes: dict[str, str]) -> Entry | None:
        """Return the entry with these labels, if there is one."""
        return self._by_labels.get(frozenset(axes.items()))

    @cached_property
    def _by_labels(self) -> dict[frozenset[tuple[str, str]], Entry]:
        return {frozenset(entry.axes.items()): entry for entry in reversed(self.entries)}


def read(store: Store, study: str, wanted: Callable[[RunData], bool] | None = None) -> StudyResults:
    """Read the runs of the newest launch's settings; what cannot be read is named, not raised.

    Where it is said which are `wanted`, the others count as not there.

    Raises:
        UserError: the study has no results.
    """
    found = _read_all(store.runs(study))
    if not found:
        others = choices(study, store.studies())
        raise UserError(
            f"study '{study}' has no results in {store.root}; run it first: "
            f"python -m harness run STUDY.toml ({others})"
        )
    unreadable = [run for run in found if isinstance(run, Unreadable)]
    runs = [run for run in found if isinstance(run, RunData) and (wanted is None or wanted(run))]
    try:
        launches = store.launches(study)
    except StoreError as error:
        launches, unreadable = [], [*unreadable, Unreadable("launches.jsonl", str(error))]
    if not runs:
        return StudyResults(study, "", None, {}, {}, (), 0, 0, tuple(unreadable), tuple(launches))

    age = _ages(launches)
    settings_hash = _asked_for(runs, launches, age)
    group = [run for run in runs if run.spec.settings_hash == settings_hash]
    newest = max(group, key=age)
    current = _current(group, age)
    levels = _levels(current, newest.spec.baseline)
    return StudyResults(
        name=study,
        settings_hash=settings_hash,
        spec=newest.spec,
        levels=levels,
        baseline=newest.spec.baseline,
        entries=_entries(current, levels),
        left_out=len(runs) - len(group),
        superseded=len(group) - len(current),
        unreadable=tuple(unreadable),
        launches=tuple(launches),
    )


def _read_all(runs: list[Run]) -> list[RunData | Unreadable]:
    """Read the runs; very many on all cores, since starting processes takes a second."""
    if len(runs) < MANY:
        return [read_run(run) for run in runs]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as readers:
        return list(readers.map(read_run, runs, chunksize=50))


def _asked_for(runs: list[RunData], launches: list[LaunchRecord], age: Age) -> str:
    """Return the settings of the newest launch, also of one that found all done; without launches the newest run's."""
    newest = max(runs, key=age)
    known = {run.spec.settings_hash for run in runs}
    named = [launch.settings_hash for launch in launches if launch.settings_hash in known]
    return str(named[-1] if named else newest.spec.settings_hash)


def _ages(launches: list[LaunchRecord]) -> Age:
    """Return what sorts runs by age: the newest launch that names the run, then when it started."""
    named = {run_id: i for i, launch in enumerate(launches) for run_id in launch.order}
    return lambda run: (named.get(run.run_id, -1), run.started_at or "")


def _current(runs: list[RunData], age: Age) -> list[RunData]:
    """Keep one run of each entry and seed, and in an entry only runs with the newest one's options."""
    options: dict[str, dict[str, VariantChoice]] = {}
    kept: dict[tuple[str, int, int], RunData] = {}
    for run in sorted(runs, key=age, reverse=True):
        entry_id = run.spec.entry
        if options.setdefault(entry_id, run.spec.axes) == run.spec.axes:
            kept.setdefault((entry_id, run.seed, run.order_seed), run)
    return list(kept.values())


def _levels(runs: Iterable[RunData], baseline: dict[str, str]) -> dict[str, tuple[str, ...]]:
    axes = list(dict.fromkeys(axis for run in runs for axis in run.labels))
    return {
        axis: tuple(
            sorted(
                {run.labels.get(axis, ABSENT) for run in runs},
                key=lambda label: (label != baseline.get(axis), natural(label)),
            )
        )
        for axis in axes
    }


def natural(text: str) -> list[tuple[int, str]]:
    """Return a sort key that puts gqa2 before gqa10."""
    return [(int(digits or 0), other) for digits, other in re.findall(r"(\d+)|(\D+)", text)]


def _entries(runs: list[RunData], levels: dict[str, tuple[str, ...]]) -> tuple[Entry, ...]:
    by_id: dict[str, list[RunData]] = {}
    for run in sorted(runs, key=lambda run: (run.seed, run.order_seed)):
        by_id.setdefault(run.spec.entry, []).append(run)
    entries = [
        Entry(
            label,
            {axis: group[0].labels.get(axis, ABSENT) for axis in levels},
            tuple(run for run in group if run.order_seed == run.seed),
            tuple(run for run in group if run.order_seed != run.seed),
        )
        for label, group in by_id.items()
        if any(run.order_seed == run.seed for run in group)
    ]
    place = {axis: {label: i for i, label in enumerate(labels)} for axis, labels in levels.items()}
    return tuple(
        sorted(entries, key=lambda e: [place[axis][label] for axis, label in e.axes.items()])
    )
