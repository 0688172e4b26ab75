"""A checked study: its runs, and what each launch of them records."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from harness.config.trials import TuningPlan
from harness.errors import UserError
from harness.provenance.sources import Code, Sources
from harness.results.records import (
    EquivalenceMargin,
    LadderSettings,
    LaunchInputs,
    LaunchRecord,
    LaunchSettings,
    LookPlan,
    RunSpec,
    Superiority,
)


@dataclass(frozen=True)
class PlannedStudy:
    """A checked study. `runs` are the selected runs, ordered by seed; `all_run_ids` covers all.

    If entries start from another run's checkpoint, that run is the first of its seed. `allow` names
    the violations of the contract that the study permits. With `looks`, the runs are those of the
    last look, if all entries go on to it; `look` is the number of the one that a stage is for.
    """

    name: str
    settings_hash: str  # of the entries
    runs: list[RunSpec]
    all_run_ids: set[str]
    excluded: list[tuple[str, str]]  # entry and reason
    note: str | None  # on the corpus
    equivalence_margin: EquivalenceMargin
    superiority: Superiority
    sources: Sources
    allow: Sequence[str] = ()
    compare: list[str] | None = None  # the asked axes; None: all
    ladder: LadderSettings | None = None
    tuning: TuningPlan | None = None
    looks: LookPlan | None = None  # None: the number of seeds is fixed
    look: int | None = None
    trackers: Sequence[str] = ()  # that get the metrics while runs train
    launch: LaunchSettings = dataclasses.field(default_factory=LaunchSettings)

    def stage(self, runs: list[RunSpec], look: int | None = None) -> "PlannedStudy":
        """Return the study with these runs, of those that it has one after the other."""
        return dataclasses.replace(self, runs=runs, look=look)

    def launch_record(
        self,
        command: str,
        order: Sequence[RunSpec],
        inputs: LaunchInputs | None = None,
        accepted_outdated: Sequence[str] = (),
    ) -> LaunchRecord:
        """Return the record of a launch that starts these runs, in this order."""
        started = dict.fromkeys(spec.run_id for spec in order)
        return LaunchRecord(
            command=command,
            order=list(started),
            not_started=[spec.run_id for spec in self.runs if spec.run_id not in started],
            settings_hash=self.settings_hash,
            note=self.note,
            equivalence_margin=self.equivalence_margin,
            superiority=self.superiority,
            compare=self.compare,
            ladder=self.ladder,
            looks=self.looks,
            look=self.look,
            accepted_outdated=list(accepted_outdated),
            inputs=inputs,
        )

    def only(self, run_id: str) -> "PlannedStudy":
        """Return the study with one run, and the run that it starts from.

        Raises:
            UserError: the study has no run of that id.
        """
        possible = self.runs if self.tuning is None else self.tuning.possible_runs()
        by_id = {spec.run_id: spec for spec in possible}
        if run_id not in by_id:
            raise UserError(
                f"--run {run_id}: not a run of this study; the id covers the settings, the seed "
                "and the content of the corpus. `run --dry-run` lists the runs"
            )
        spec = by_id[run_id]
        source_run = by_id.get(spec.source_id or "")
        runs = [run for run in (source_run, spec) if run is not None]
        return dataclasses.replace(self, runs=runs, tuning=None, looks=None)

    def codes(self) -> list[Code]:
        """Return the distinct codes of the selected runs."""
        specs = {spec.run_id: spec for spec in self.runs}
        codes = {}
        for spec in self.runs:
            source_run = specs.get(spec.source_id or "")
            code = self.sources.code(spec, source_run)
            codes[code.hash] = code
        return list(codes.values())
