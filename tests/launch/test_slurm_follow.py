"""Studies on Slurm: what is submitted, what is followed, and what a user reads of it.

Slurm is played by a queue in this process. Time passes when the code sleeps.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
from synthetic_results import SyntheticStudy

from harness.errors import ExitCode, UserError
from harness.launch.backend import Stopped
from harness.launch.slurm import commands, follow, queue
from harness.launch.slurm.backend import SlurmBackend
from harness.launch.slurm.commands import CommandError, QueueEntry
from harness.results.records import RunSpec, Submission
from harness.results.store import Store

AXES = {"positional": ["learned", "rope"], "attention": ["mha"], "parallelism": ["single"]}


class Cluster:
    """A queue, the runs that its elements train, and a clock that sleeping moves."""

    def __init__(self, study: SyntheticStudy) -> None:
        self.store = study.store
        self.study = study.name
        self.entries: dict[tuple[str, int], QueueEntry] = {}
        self.submitted: list[Submission] = []
        self.now = 1000.0
        self.asked_at: list[float] = []
        self.cancelled: list[str] = []
        self.is_away = False
        self.per_element = 1
        self.events: list[Callable[[], None]] = []  # one for each time that the code sleeps
        self.named: list[str] = []

    # what replaces the modules' functions

    def squeue(self, names: Iterator[str]) -> list[QueueEntry]:
        self.asked_at.append(self.now)
        if self.is_away:
            raise CommandError("squeue: Unable to contact slurm controller")
        wanted = set(names)
        return [entry for (name, _), entry in self.entries.items() if name in wanted]

    def scancel(self, jobs: Sequence[str]) -> None:
        self.cancelled += jobs
        for key, entry in self.entries.items():
            if entry.job in jobs:
                self.entries[key] = replace(entry, state="CANCELLED")

    def sacct(self, jobs: Sequence[str]) -> dict[str, commands.AccountEntry]:
        raise CommandError("sacct: is not installed here")

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.events:
            self.events.pop(0)()
        assert self.now < 10_000, "it follows for ever"

    def submit(self, store: Store, study: str, specs: Sequence[RunSpec]) -> list[Submission]:
        number = len(store.submissions(study)) + 1
        ids = [spec.run_id for spec in specs]
        size = self.per_element
        elements = [ids[i : i + size] for i in range(0, len(ids), size)]
        submission = Submission(id=f"{number}", name=f"ablations-{number}", elements=elements)
        store.record_submission(study, submission)
        for index in range(len(elements)):
            self.enqueue(submission.name, number, index)
        submission = submission.model_copy(update={"job": f"{number}"})
        store.record_submission(study, submission)
        self.submitted.append(submission)
        return [submission]

    def enqueue(self, name: str, number: int, index: int) -> None:
        job = f"{number}_{index}"
        entry = QueueEntry(job, f"{number}", index, name, "PENDING", "Priority", "")
        self.entries[name, index] = entry

    # what happens

    def set_state(self, state: str, *indices: int, reason: str = "") -> Callable[[], None]:
        def event() -> None:
            for key, entry in self.entries.items():
                if entry.index in indices:
                    nodes = "n1" if state != "PENDING" else ""
                    self.entries[key] = replace(entry, state=state, reason=reason, nodes=nodes)

        return event

    def train(self, spec: RunSpec, status: str = "done", reason: str | None = None) -> None:
        """Run it to its end, or to the state `running`."""
        with self.store.run(self.study, spec.run_id).claim() as claim:
            claim.run.mark_running()
            if status != "running":
                claim.run.finish(status, reason, reason)

    def training(self, *specs: RunSpec, **outcome: str) -> Callable[[], None]:
        return lambda: [self.train(spec, **outcome) for spec in specs] and None

    @property
    def specs(self) -> list[RunSpec]:
        return self.store.specs(self.study)

    def backend(self, **options: bool) -> SlurmBackend:
        name_run = lambda run, earlier: self.named.append(run.run_id)  # noqa: E731
        return SlurmBackend(self.submit, print, name_run, **options)

    def run(self, fail_fast: bool = False, **options: bool) -> None:
        due = [spec for spec in self.specs if self.status(spec) not in ("done",)]
        self.backend(**options).run_all(self.store, due, fail_fast)

    def status(self, spec: RunSpec) -> str:
        return self.store.run(self.study, spec.run_id).status.status


@pytest.fixture
def cluster(fake, monkeypatch) -> Cluster:
    fake.axes = AXES
    fake.baseline = {axis: labels[0] for axis, labels in AXES.items()}
    fake.seeds = (0, 1)
    names = [f"{entry}-mha-single-s{seed}" for entry in ("learned", "rope") for seed in (0, 1)]
    fake.outcome = dict.fromkeys(names, ("pending", None, None))
    made = Cluster(fake.write())
    monkeypatch.setattr(commands, "squeue", made.squeue)
    monkeypatch.setattr(commands, "scancel", made.scancel)
    monkeypatch.setattr(commands, "sacct", made.sacct)
    clock = SimpleNamespace(monotonic=lambda: made.now, sleep=made.sleep)
    for module in (follow, queue):
        monkeypatch.setattr(module, "time", clock)
    return made


def test_runs_are_submitted_and_followed_to_their_end(cluster, capsys):
    specs = cluster.specs
    cluster.events = [cluster.training(specs[0]), cluster.training(*specs[1:])]
    cluster.run()
    assert [cluster.status(spec) for spec in specs] == ["done"] * 4
    assert len(cluster.submitted) == 1
    assert sorted(cluster.named) == sorted(spec.run_id for spec in specs)
    assert cluster.asked_at == []  # the files said all of it
    assert "submitted job 1: 4 runs in 4 elements" in capsys.readouterr().err


def test_second_submitter_attaches_and_submits_only_what_is_missing(cluster):
    specs = cluster.specs
    cluster.submit(cluster.store, cluster.study, specs[:2])
    cluster.events = [cluster.training(*specs)]
    cluster.run()
    listed = [run_id for one in cluster.submitted for ids in one.elements for run_id in ids]
    assert sorted(listed) == sorted(spec.run_id for spec in specs)


def test_nothing_is_submitted_while_the_queue_cannot_be_asked(cluster):
    cluster.submit(cluster.store, cluster.study, cluster.specs[:1])
    cluster.is_away = True
    with pytest.raises(UserError, match="nothing is submitted"):
        cluster.run()
    assert len(cluster.submitted) == 1


def test_job_of_a_lost_submitter_is_found_by_name(cluster):
    specs = cluster.specs
    [submission] = cluster.submit(cluster.store, cluster.study, specs)
    cluster.store.record_submission(cluster.study, submission.model_copy(update={"job": None}))
    cluster.events = [cluster.training(*specs)]
    cluster.run()
    assert len(cluster.submitted) == 1
    assert [one.job for one in cluster.store.submissions(cluster.study)] == ["1"]


def test_runs_that_leave_the_queue_are_named(cluster, capsys):
    specs = cluster.specs
    cluster.events = [cluster.training(*specs[1:]), cluster.set_state("OUT_OF_MEMORY", 0)]
    cluster.run()
    text = capsys.readouterr().err
    assert f"{specs[0].run_id} left the queue without an end" in text
    assert "1_0 OUT_OF_MEMORY on n1" in text


def test_squeue_is_asked_once_a_minute_and_may_fail(cluster, capsys):
    """The user reads once that it fails, and once that it is back."""
    specs = cluster.specs
    wait = [lambda: None] * 150

    def answer(is_away: bool) -> Callable[[], None]:
        return lambda: setattr(cluster, "is_away", is_away)

    cluster.events = [answer(False), *wait, answer(True), *wait, *wait, answer(False), *wait]
    cluster.events.append(cluster.training(*specs))
    cluster.run()
    gaps = [b - a for a, b in pairwise(cluster.asked_at)]
    assert len(gaps) >= 8 and min(gaps) >= queue.ASK_INTERVAL_S
    assert all(cluster.status(spec) == "done" for spec in specs)
    text = capsys.readouterr().err
    assert text.count("the queue cannot be asked (squeue: ") == 1, text
    assert text.count("the queue can be asked again") == 1, text


def test_without_waiting_the_command_ends_with_0(cluster):
    with pytest.raises(Stopped) as stopped:
        cluster.run(waits=False)
    assert stopped.value.code == ExitCode.DONE
    assert len(cluster.submitted) == 1
