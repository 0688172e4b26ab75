"""A study whose runs are planned, started and ended as `run` does, without training."""

from dataclasses import dataclass, field
from pathlib import Path

from harness.config import PlannedStudy, load
from harness.launch import scheduler
from harness.launch.local import LocalBackend
from harness.provenance import outdated
from harness.provenance.archive import archive_code, archive_inputs
from harness.results.run import Run
from harness.results.store import Store

STUDY = """
[study]
name = "s"
seeds = [0]
variant_paths = ["mine"]
[model]
n_layer = 1
n_head = 2
n_embd = 8
seq_len = 8
[data]
corpus = "text.txt"
[train]
steps = 4
tokens_per_step = 32
[axes]
positional = ["learned", "ours"]
"""
OURS = "from variants.base import Positional\nclass Ours(Positional):\n    factor = 1\n"
OURS_FILE = "user/mine/positional/ours.py"


@dataclass
class UntrainedStudy:
    """`outcome` is how its runs end; `started` and `resumed` are the entries of the last launch."""

    folder: Path
    outcome: tuple[str, str | None] = ("done", None)
    started: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.variant = self.folder / "mine/positional/ours.py"
        self.variant.parent.mkdir(parents=True)
        self.variant.write_text(OURS)
        (self.folder / "text.txt").write_text("To be, or not to be.\n" * 40)
        (self.folder / "study.toml").write_text(STUDY)
        self.store = Store(self.folder / "results")

    def plan(self) -> PlannedStudy:
        return load(self.folder / "study.toml")

    def changes(self, planned):
        return outdated.find_changes(self.store, "s", planned.runs, planned.sources)

    def select(self, planned=None, **options):
        planned = planned or self.plan()
        return scheduler.select_runs(self.store, planned.runs, self.changes(planned), **options)

    def run(self, planned=None, start=None) -> list[str]:
        """Run what is to do; return the entries that were started, in their order."""
        planned = planned or self.plan()
        todo = self.select(planned).todo
        archive = self.store.archive("s")
        archive_code(archive, planned.codes())
        inputs = archive_inputs(archive, self.folder / "study.toml", (), None, ())
        self.store.record_launch("s", planned.launch_record("run", todo, inputs))
        scheduler.plan_runs(self.store, "s", todo, planned.all_run_ids)
        self.started = []
        self.resumed = []
        self.run_all(todo, start or self.start)
        return self.started

    def run_all(self, specs, start=None, parallel=None, fail_fast=False) -> None:
        begin = start or self.start

        def start_in_slot(run, launch, slot, stop):
            begin(run, launch)

        LocalBackend(start_in_slot, parallel).run_all(self.store, specs, fail_fast)

    def start(self, run: Run, launch: object) -> None:
        run.mark_running()
        self.started.append(run.spec.entry)
        if (run.path / "eval.jsonl").exists():
            self.resumed.append(run.spec.entry)
        (run.path / "eval.jsonl").write_text("")
        run.finish(*self.outcome)

    def entry(self, name: str) -> Run:
        return next(run for run in self.store.runs("s") if run.spec.entry == name)

    def edit(self, old: str = "factor = 1", new: str = "factor = 10") -> None:
        text = self.variant.read_text()
        assert old in text
        self.variant.write_text(text.replace(old, new))
