"""The folder `results/`: its studies, with their runs, launches and submissions.

Only this module, `run` and `run_files` read and write it, without torch. `results/README.md` states
layout and meaning of each file; `harness.results.records` has the model of each.
"""

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.errors import StoreError, UserError
from harness.results import claims
from harness.results.archive import Archive
from harness.results.claims import Fence
from harness.results.files import (
    JsonLinesWriter,
    own_folder,
    read_lines,
    read_optional_record,
    read_record,
    remove_temporaries,
    write_json,
)
from harness.results.records import LaunchRecord, RunSpec, Submission, TuningRecord
from harness.results.run import Run


@dataclass(frozen=True)
class Store:
    """The results folder: `<study>/<run_id>/`, and `<study>/launches.jsonl`."""

    root: Path

    def studies(self) -> list[str]:
        """Return the names of the studies that have results."""
        return sorted(path.parent.name for path in self.root.glob("*/launches.jsonl"))

    def archive(self, study: str) -> Archive:
        """Return the archive of the inputs and the code of a study's runs."""
        return Archive(self.root / study / "archive")

    def run(self, study: str, run_id: str) -> Run:
        """Return the run of that id, created or not."""
        return Run(self.root / study / run_id)

    def runs(self, study: str) -> list[Run]:
        """Return all runs of a study that have been created, by run id."""
        return [Run(path.parent) for path in sorted((self.root / study).glob("[!.]*/status.json"))]

    def specs(self, study: str) -> list[RunSpec]:
        """Return the specs of all runs of a study whose files can be read."""
        specs = []
        for run in self.runs(study):
            with contextlib.suppress(StoreError):
                specs.append(run.spec)
        return specs

    def last_change(self, study: str) -> float:
        """Return when a file of a study last changed, seconds since the epoch; 0 without files."""
        times = [run.last_activity() for run in self.runs(study)]
        with contextlib.suppress(FileNotFoundError):
            times.append((self.root / study / "launches.jsonl").stat().st_mtime)
        return max(times, default=0.0)

    def record_launch(self, study: str, launch: LaunchRecord) -> None:
        """Append a launch: the request and the order of its runs."""
        (self.root / study).mkdir(parents=True, exist_ok=True)
        lines = JsonLinesWriter(self.root / study / "launches.jsonl")
        lines.append(launch)
        lines.close()

    def launches(self, study: str) -> list[LaunchRecord]:
        """Return the launches of a study, oldest first."""
        return read_lines(self.root / study / "launches.jsonl", LaunchRecord)

    def tuning(self, study: str) -> TuningRecord | None:
        """Return the settings that entries tried and chose; None if the study does not tune.

        Raises:
            StoreError: the file is damaged.
        """
        return read_optional_record(self.root / study / "tuning.json", TuningRecord)

    def record_tuning(self, study: str, tuning: TuningRecord) -> None:
        """Replace the record of a study's tuning."""
        (self.root / study).mkdir(parents=True, exist_ok=True)
        write_json(self.root / study / "tuning.json", tuning)

    # -- submissions ------------------------------------------------------------------------------

    def submissions(self, study: str) -> list[Submission]:
        """Return the submissions of a study, oldest first."""
        paths = (self.root / study / "submissions").glob("[!.]*.json")
        found = [read_record(path, Submission) for path in paths]
        return sorted(found, key=lambda submission: submission.at)

    def submission_path(self, study: str, submission: Submission) -> Path:
        """The file of a submission."""
        return self.root / study / "submissions" / f"{submission.id}.json"

    def element_log(self, study: str, submission: Submission, index: int) -> Path:
        """The file with the output of an element of a submission."""
        return self.root / study / "submissions" / f"{submission.id}.{index}.log"

    def claim_submitting(self, study: str, wait_s: float = 0) -> Fence | None:
        """Reserve the right to submit runs of a study; None if another process holds it."""
        return claims.take(self.root / study / ".claims" / ".submitting", wait_s)

    def record_submission(self, study: str, submission: Submission) -> None:
        """Create or replace the record of a submission."""
        path = self.submission_path(study, submission)
        own_folder(path.parent)
        write_json(path, submission)

    def prune_pending(self, study: str, keep: set[str]) -> None:
        """Remove pending runs that the study no longer requests.

        Runs that have started or were submitted stay: an edit changes no job.
        """
        submitted = set()
        try:
            for submission in self.submissions(study):
                for run_ids in submission.elements:
                    submitted.update(run_ids)
        except StoreError:  # any run may have been submitted
            return
        kept = keep | submitted
        for run in self.runs(study):
            if run.run_id in kept or not _is_unstarted(run):
                continue
            with contextlib.suppress(StoreError):  # its folder or its claims are damaged
                claim = run.claim()
                if claim is None:
                    continue
                with claim, contextlib.suppress(FileNotFoundError):  # the user removes it as well
                    if _is_unstarted(run):
                        shutil.rmtree(run.path)

    def remove_temporaries(self, study: str) -> None:
        """Remove the temporary files that crashes have left in the folders of the whole study."""
        folder = self.root / study
        for name in ("", "submissions", "archive/files", "archive/code"):
            if name == "" or not (folder / name).parent.is_symlink():
                remove_temporaries(folder / name)

    def is_imported(self, study: str) -> bool:
        """Return whether the study consists of runs of another trainer."""
        return any(run.is_imported for run in self.runs(study))

    def refuse_imported(self, study: str, action: str) -> None:
        """Refuse an action that a study of another trainer does not allow.

        Raises:
            UserError: the study is imported.
        """
        if self.is_imported(study):
            raise UserError(
                f"{self.root / study}: its runs are imported from another trainer; {action}"
            )


def _is_unstarted(run: Run) -> bool:
    """Return whether a run is pending; one that has results has lost its status."""
    return run.outcome.status == "pending" and not run.has_results
