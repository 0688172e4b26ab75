"""Follow a study file: keep the runs of its entries, under the labels that it states now."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.results.archive import Archive
from harness.results.records import LaunchRecord, RunSpec, TuningRecord
from harness.results.records.study_summary import FileDifference, FollowedFile
from harness.results.run_data import RunData

if TYPE_CHECKING:
    from harness.study.stated import SettingDifference, StatedStudy

MAX_DIFFERENCES = 20  # settings that are listed


@dataclass(frozen=True)
class FollowedStudy:
    """A study file, and what it changes in a report of the runs.

    `n_left_out` runs are of entries that the file no longer contains. `renamed` maps the entries of
    the tuning to their present labels. `replanned` replaces a launch with the plan of looks that
    the file states, if this has been edited since the newest launch; None otherwise.
    """

    stated: "StatedStudy"
    n_left_out: int = 0
    differences: Sequence["SettingDifference"] = ()
    renamed: dict[str, str] = field(default_factory=dict)
    replanned: LaunchRecord | None = None

    @property
    def margins(self) -> dict[str, float]:
        """The equivalence margins that the file states, by metric."""
        return self.stated.file.study.equivalence_margin.model_dump(exclude_none=True)

    @property
    def superiority(self) -> dict[str, float]:
        """The thresholds of improvement that the file states, by metric."""
        return self.stated.file.study.superiority.model_dump(exclude_none=True)

    @property
    def compare(self) -> tuple[str, ...] | None:
        """The axes that the file asks about, None for all."""
        compare = self.stated.file.study.compare
        return None if compare is None else tuple(compare)

    def agrees_with(self, spec: object) -> bool:
        """Return whether a run has the settings that the file states."""
        return not isinstance(spec, RunSpec) or not self.stated.differences(spec)

    def place(self, runs: Sequence[RunData]) -> tuple[list[RunData], "FollowedStudy"]:
        """Return the runs of the file's entries under its labels, and what it changes.

        Of two runs of one entry and seed, one that has been given another label is left out: it may
        be of an equal entry that the file has removed.
        """
        placed = []
        renamed = {}
        for run in runs:
            spec = run.spec
            if not isinstance(spec, RunSpec):
                placed.append((run, False))
                continue
            new = self.stated.place(spec)
            if new is None:
                continue
            if spec.tuning is not None and new.tuning is not None:
                renamed[spec.tuning.entry] = new.tuning.entry
            placed.append((replace(run, spec=new), new.entry != spec.entry))
        own = {_key(run) for run, is_renamed in placed if not is_renamed}
        kept = [run for run, is_renamed in placed if not is_renamed or _key(run) not in own]
        followed = replace(self, n_left_out=len(runs) - len(kept), renamed=renamed)
        return kept, followed

    def compared_with(self, newest: RunData) -> "FollowedStudy":
        """Return the study with the settings that the newest run has otherwise."""
        if not isinstance(newest.spec, RunSpec):
            return self
        return replace(self, differences=self.stated.differences(newest.spec))

    def planned(
        self, launches: Sequence[LaunchRecord], settings_hash: str, archive: Archive
    ) -> "FollowedStudy":
        """Return the study with its plan of looks, if the file states another than when it ran."""
        own = [launch for launch in launches if launch.settings_hash == settings_hash]
        plan = self.stated.looks
        if not own or plan is None or plan.looks == _stated_looks(own[-1], archive):
            return self
        asked = dict.fromkeys(
            name for launch in own for name in (*launch.order, *launch.not_started)
        )
        replanned = LaunchRecord(order=[], not_started=list(asked), looks=plan)
        return replace(self, replanned=replanned)

    def tuning(self, record: TuningRecord | None) -> TuningRecord | None:
        """Return the record of the tuning with the entries of the file, under its labels."""
        if record is None or self.stated.file.tune is None:
            return None
        entries = [
            tuned.model_copy(update={"entry": self.renamed[tuned.entry]})
            for tuned in record.entries
            if tuned.entry in self.renamed
        ]
        return record.model_copy(update={"entries": entries})

    def as_record(self) -> FollowedFile:
        """Return what summary.json states about the file."""
        return FollowedFile(
            path=str(self.stated.path),
            left_out=self.n_left_out,
            differences=[
                FileDifference(key=found.key, stated=_text(found.stated), used=_text(found.used))
                for found in self.differences[:MAX_DIFFERENCES]
            ],
            looks_edited=self.replanned is not None,
        )


def read(path: Path) -> FollowedStudy:
    """Read the study file to follow.

    Raises:
        UserError: it is invalid; the error names every problem with file, key path and remedy.
    """
    from harness.study import stated

    return FollowedStudy(stated.read(path))


def _key(run: RunData) -> tuple[str, int, int, bool, str]:
    spec = run.spec
    trial = spec.tuning if isinstance(spec, RunSpec) else None
    return spec.entry, run.seed, run.order_seed, trial is not None, f"{trial}"


def _stated_looks(launch: LaunchRecord, archive: Archive) -> list[int] | None:
    """Return the looks of the study file of a launch; without the file, those of its plan."""
    if launch.inputs is not None:
        try:
            table = tomllib.loads(archive.read(launch.inputs.study_file).decode())
            looks = table["study"].get("looks")
            return looks if isinstance(looks, list) else None
        except (OSError, ValueError, KeyError, AttributeError):
            pass  # a copy of the results without the archive
    return launch.looks.looks if launch.looks is not None else None


def _text(value: object) -> str:
    """Return a value as the study file states it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "not set"
    return f'"{value}"' if isinstance(value, str) else str(value)
