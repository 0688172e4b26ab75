"""Select entries of a study's results, and another baseline, by the conditions of a command."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.axis_levels import is_context
from harness.errors import StoreError, UserError, choices
from harness.results.records import VariantChoice
from harness.results.records.run_spec import RunKeys
from harness.results.records.study_summary import SelectedEntries
from harness.results.run import Run
from harness.results.run_data import RunData
from harness.results.store import Store
from harness.study import setting_axes

Levels = Mapping[str, Mapping[str, VariantChoice]]  # by axis and label


@dataclass(frozen=True)
class Selection:
    """The scope of a report: conditions AXIS=NAME, another baseline, and a settings hash.

    `where` and `baseline` are as on the command line. `settings` may be shortened.
    """

    where: Sequence[str] = ()
    baseline: Sequence[str] = ()
    settings: str | None = None

    def baseline_labels(self, levels: Levels) -> dict[str, str]:
        """Return the label of the other baseline on each axis that is named.

        Raises:
            UserError: an axis or a name matches nothing, or a name matches several levels.
        """
        labels: dict[str, str] = {}
        for conditions in self.baseline:
            for condition in conditions.split(","):
                axis, labels_of_axis = _matching("--baseline", condition, levels)
                if len(labels_of_axis) > 1:
                    listed = ", ".join(labels_of_axis)
                    raise UserError(f"--baseline {condition}: matches several levels: {listed}")
                labels[axis] = labels_of_axis[0]
        return labels

    def wanted(self, levels: Levels) -> dict[str, set[str]]:
        """Return the selected labels of each axis that a condition names.

        Raises:
            UserError: an axis or a name matches nothing.
        """
        wanted: dict[str, set[str]] = {}
        for condition in self.where:
            axis, equals, names = condition.partition("=")
            for name in names.split(","):
                axis, found = _matching("--where", f"{axis}{equals}{name}", levels)
                wanted.setdefault(axis, set()).update(found)
        return wanted

    def select(
        self,
        runs: Sequence[RunData],
        levels: Levels,
        baseline: Mapping[str, str],
        compare: Sequence[str] | None,
    ) -> list[RunData]:
        """Return the runs that match all conditions, and those of their baselines.

        Raises:
            UserError: a condition matches nothing, or no run matches all.
        """
        wanted = self.wanted(levels)
        if not wanted:
            return list(runs)
        matching = [
            run
            for run in runs
            if all(run.labels.get(axis) in labels for axis, labels in wanted.items())
        ]
        if not matching:
            raise UserError(f"--where {' '.join(self.where)}: no run matches all of these")
        asked = {axis: label for axis, label in baseline.items() if not is_context(axis, compare)}
        kept = {_labels(run.labels) for run in matching}
        kept |= {_labels(run.labels | asked) for run in matching}
        return [run for run in runs if _labels(run.labels) in kept]

    def as_record(self, runs: Sequence[RunData], kept: Sequence[RunData]) -> SelectedEntries | None:
        """Return what summary.json states about the selection, None for the whole study."""
        if self == WHOLE:
            return None
        entries = {run.spec.entry for run in runs} - {run.spec.entry for run in kept}
        return SelectedEntries(
            where=list(self.where),
            entries_left_out=len(entries),
            baseline=list(self.baseline),
            settings=self.settings,
        )

    def choose_settings(self, hashes: Sequence[str], study: str) -> str | None:
        """Return the settings hash that is asked for, None without a request.

        Raises:
            UserError: no settings of the study have it, or several.
        """
        if self.settings is None:
            return None
        found = [known for known in hashes if known.startswith(self.settings)]
        if len(found) != 1 or not self.settings:
            problem = "matches several settings" if found else "no such settings"
            raise UserError(
                f"--settings {self.settings}: {problem} of study '{study}'; "
                f"allowed: {', '.join(hashes)}"
            )
        return found[0]


WHOLE = Selection()


def _labels(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def levels_of(runs: Sequence[RunData]) -> Levels:
    """Return the choices of each axis by label."""
    return _levels(run.spec for run in runs)


def _levels(specs: Iterable[RunKeys]) -> Levels:
    levels: dict[str, dict[str, VariantChoice]] = {}
    for spec in specs:
        for axis, choice in spec.axes.items():
            levels.setdefault(axis, {}).setdefault(choice.label, choice)
    return levels


def _matching(option: str, condition: str, levels: Levels) -> tuple[str, list[str]]:
    """Return the axis of a condition, and the labels that it matches."""
    axis, equals, name = condition.partition("=")
    if not equals or axis not in levels:
        raise UserError(f"{option} {condition}: must be AXIS=NAME; {choices(axis, levels)}")
    found = [label for label, choice in levels[axis].items() if _matches(choice, name)]
    if name in found:
        found = [name]
    if not found:
        allowed = choices(name, levels[axis])
        raise UserError(f"{option} {condition}: '{name}' matches nothing; {allowed}")
    return axis, found


def _matches(choice: VariantChoice, name: str) -> bool:
    if choice.is_setting:
        return setting_axes.matches(choice, name)
    return name in (choice.label, choice.name)


def matching_runs(
    store: Store, study: str, where: Sequence[str], status: str | None = None
) -> list[Run]:
    """Return the stored runs of a study that match all conditions, and have the status if given.

    Raises:
        UserError: the study has no results, or nothing matches.
    """
    runs = store.runs(study)
    if not runs:
        raise UserError(
            f"study '{study}' has no results in {store.root}; {choices(study, store.studies())}"
        )
    if where:
        specs = []
        for run in runs:
            with contextlib.suppress(StoreError):  # a damaged run has no labels
                specs.append((run, run.imported if run.is_imported else run.spec))
        wanted = Selection(where).wanted(_levels(spec for _, spec in specs))
        runs = [
            run
            for run, spec in specs
            if all(spec.labels.get(axis) in labels for axis, labels in wanted.items())
        ]
    if status is not None:
        states = {run.outcome.status for run in runs}
        if status not in states:
            raise UserError(f"--status {status}: no such run; {choices(status, sorted(states))}")
        runs = [run for run in runs if run.outcome.status == status]
    if not runs:
        raise UserError(f"--where {' '.join(where)}: no run of '{study}' matches all of these")
    return runs
