"""Without these, files that vanish while others read a run's folder would end a whole study.

A run removes old checkpoints and renames temporary files at any time, and a user may remove a run
or damage its files. Before each access of a reader to the run's folder, one of these happens.
"""

import builtins
import io
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from synthetic_results import SyntheticStudy

from harness.analysis import dataset
from harness.cli import status as status_command
from harness.launch import scheduler
from harness.launch.progress import ProgressReporter
from harness.launch.time_summary import time_summary
from harness.launch.timing_runs import due_timing_runs
from harness.provenance.corpora import replaced_corpora
from harness.provenance.outdated import find_changes
from harness.provenance.sources import Sources
from harness.report.watch import ReportRequest
from harness.results.limits import Limits
from harness.results.manage import size_bytes
from harness.results.run import Run

ACCESSES = (os, "stat"), (os, "lstat"), (os, "scandir"), (os, "listdir"), (os, "open")
ACCESSES += (io, "open"), (builtins, "open"), (os, "readlink"), (os, "utime")


@dataclass
class Victim:
    """A run whose files change right before access number `at` to its folder."""

    path: Path
    kept: Path
    at: int = -1
    n_accesses: int = 0
    change: str = ""
    is_active: bool = False
    restored: list[Path] = field(default_factory=list)

    def meet(self, path: object) -> None:
        if not self.is_active or isinstance(path, int):
            return
        if not str(os.fspath(path)).startswith(str(self.path)):
            return
        self.is_active = False
        if self.n_accesses == self.at:
            self.happen()
        self.n_accesses += 1
        self.is_active = True

    def happen(self) -> None:
        if self.change == "run":
            self.path.rename(self.path.with_name(f".removed-{self.path.name}"))
        elif self.change == "checkpoint":
            shutil.rmtree(self.path / "checkpoint/step-8")
            (self.path / ".status.json.ab.tmp").unlink()
        elif self.change == "restart":
            Run(self.path).finish("failed", "error")
            Run(self.path).mark_running()
        else:
            (self.path / "status.json").write_text("{")

    def restore(self) -> None:
        shutil.rmtree(self.path.with_name(f".removed-{self.path.name}"), ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.kept, self.path, symlinks=True)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    axes = {"positional": ["learned", "rope"]}
    outcome = {"rope-s0": ("interrupted", "killed", "x")}
    written = SyntheticStudy(
        folder, axes=axes, baseline={"positional": "learned"}, seeds=(0,), outcome=outcome
    ).write()
    run = next(run for run in written.store.runs("tiny") if run.spec.entry == "rope")
    for step in (4, 8):
        (run.path / f"checkpoint/step-{step}/state").mkdir(parents=True)
        (run.path / f"checkpoint/step-{step}/state/rank0.pt").write_text("x")
    (run.path / "checkpoint/newest").symlink_to("step-8")
    (run.path / ".status.json.ab.tmp").write_text("x")
    return written


@pytest.fixture
def victim(study, tmp_path, monkeypatch):
    run = next(run for run in study.store.runs("tiny") if run.run_id.startswith("rope"))
    shutil.copytree(run.path, tmp_path / "kept", symlinks=True)
    victim = Victim(run.path, tmp_path / "kept")

    def wrapped(original):
        def access(path=".", *arguments, **options):
            victim.meet(path)
            return original(path, *arguments, **options)

        return access

    for module, name in ACCESSES:
        monkeypatch.setattr(module, name, wrapped(getattr(module, name)))
    yield victim
    victim.is_active = False
    victim.restore()


def specs(study):
    return [study.store.run("tiny", run_id).spec for run_id in run_ids(study)]


def run_ids(study):
    return [f"{entry}-s0-c0ffee" for entry in ("learned", "rope")]


def _progress(study, planned):
    run = study.store.run("tiny", planned[1].run_id)
    with ProgressReporter(planned) as progress:
        progress.start_run(run, planned[1])
        progress.end_run(run)


def _limits(study, planned):
    limits = Limits(study.store.run("tiny", planned[1].run_id), planned[1].launch)
    limits._checked -= 100
    return limits.check()


READERS = {
    "last change": lambda study, planned: study.store.last_change("tiny"),
    "size": lambda study, planned: size_bytes(study.root / "tiny"),
    "limits": _limits,
    "weights": lambda study, planned: study.store.run("tiny", planned[1].run_id).newest_weights,
    "specs": lambda study, planned: study.store.specs("tiny"),
    "outcomes": lambda study, planned: [run.outcome for run in study.store.runs("tiny")],
    "log": lambda study, planned: study.store.run("tiny", planned[1].run_id).log_tail(),
    "last step": lambda study, planned: study.store.run("tiny", planned[1].run_id).last_step(),
    "changes": lambda study, planned: find_changes(study.store, "tiny", planned, Sources()),
    "selection": lambda study, planned: scheduler.select_runs(study.store, planned, {}),
    "pruning": lambda study, planned: study.store.prune_pending("tiny", set()),
    "study fields": lambda study, planned: scheduler.update_study_fields(study.store, planned),
    "corpora": lambda study, planned: replaced_corpora(study.store, "tiny", planned),
    "times": lambda study, planned: time_summary(study.store, planned, 0.0, 1.0),
    "due timing runs": lambda study, planned: due_timing_runs(study.store, planned, 4),
    "progress": _progress,
    "status": lambda study, planned: status_command.status("tiny", study.root),
    "watch": lambda study, planned: ReportRequest("tiny").last_change(study.store),
    "report": lambda study, planned: dataset.read(study.store, "tiny"),
}


@pytest.mark.parametrize("change", ["checkpoint", "run", "restart", "damage"])
@pytest.mark.parametrize("reader", READERS)
def test_a_reader_survives_what_vanishes_at_any_time(reader, change, study, victim):
    planned = specs(study)
    at = 0
    while True:
        victim.at = at
        victim.change = change
        victim.n_accesses = 0
        victim.is_active = True
        READERS[reader](study, planned)
        victim.is_active = False
        if victim.n_accesses <= at:
            break
        victim.restore()
        at += 1
    assert at > 0, "the reader does not read the run"
