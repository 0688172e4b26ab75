"""Without these, an element of an array job could train a run twice, drop one, or not come back."""

import contextlib
import os
import signal
from pathlib import Path
from unittest import mock

import pytest

from harness.cli.studies import load_study
from harness.errors import ExitCode
from harness.launch import scheduler
from harness.launch.slurm import commands, steps
from harness.launch.slurm.commands import CommandError
from harness.launch.slurm.element import run_element
from harness.launch.slurm.job import Job, free_port, has_whole_node, this_job
from harness.launch.stop import Stop
from harness.results.records import LaunchSpec, Submission
from harness.results.run import Run
from harness.results.store import Store

JOB = {
    "SLURM_JOB_ID": "9",
    "SLURM_ARRAY_JOB_ID": "7",
    "SLURM_ARRAY_TASK_ID": "0",
    "SLURM_CPUS_ON_NODE": "2",
}


class Element:
    """Three runs in one element, whose starts are recorded and end as `outcomes` say."""

    def __init__(self, harness) -> None:
        study = harness.study('["learned", "rope", "alibi"]')
        with contextlib.chdir(harness.folder), mock.patch.dict(os.environ, harness.env):
            planned = load_study(study, None, None, None)
        self.store = Store(harness.folder / "results")
        scheduler.plan_runs(self.store, "s", planned.runs, planned.all_run_ids)
        self.ids = [spec.run_id for spec in planned.runs]
        submission = Submission(id="a", name="ablations-s-a", elements=[self.ids])
        self.store.record_submission("s", submission)
        self.path = self.store.submission_path("s", submission)
        self.started: list[str] = []
        self.outcomes: dict[str, tuple[str, str | None]] = {}
        self.stop = Stop()
        self.requests: dict[str, list[signal.Signals]] = {}

    def run(self) -> ExitCode:
        self.stop = Stop()
        return run_element(self.path, this_job(os.environ), self.stop, self._start)

    def of(self, index: int) -> Run:
        return self.store.run("s", self.ids[index])

    def _start(self, run: Run, launch: LaunchSpec) -> None:
        self.started.append(run.run_id)
        run.mark_running()
        for number in self.requests.get(run.run_id, []):
            self.stop.request(number)
        state, reason = self.outcomes.get(run.run_id, ("done", None))
        run.finish(state, reason, reason)


@pytest.fixture
def requeued(monkeypatch) -> list[str]:
    jobs: list[str] = []
    monkeypatch.setattr(commands, "requeue", jobs.append)
    monkeypatch.setattr("harness.launch.slurm.element.REQUEUE_WAIT_S", 0.0)
    return jobs


@pytest.fixture
def element(new_harness, monkeypatch, requeued) -> Element:
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    return Element(new_harness)


def test_an_element_trains_each_of_its_runs_once(element, requeued):
    assert element.run() == ExitCode.DONE
    assert element.started == element.ids
    assert element.run() == ExitCode.DONE
    assert element.started == element.ids and not requeued


def test_a_failed_run_does_not_stop_the_others(element, monkeypatch):
    element.outcomes[element.ids[0]] = ("failed", "oom")
    assert element.run() == ExitCode.SOME_FAILED
    assert element.started == element.ids
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert element.run() == ExitCode.SOME_FAILED, "its failure counts after a restart"
    assert element.started == element.ids, "and is not repeated"


def test_a_lost_run_resumes_when_the_job_starts_again(element, monkeypatch):
    element.outcomes[element.ids[0]] = ("failed", "lost")
    assert element.run() == ExitCode.SOME_FAILED
    element.outcomes.clear()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert element.run() == ExitCode.DONE
    assert element.started == [*element.ids, element.ids[0]]
    assert element.of(0).status.attempts == 2


@pytest.mark.parametrize("numbers", [[signal.SIGUSR1], [signal.SIGUSR2]])
def test_after_usr1_and_usr2_the_element_comes_back(element, requeued, numbers):
    element.requests[element.ids[1]] = numbers
    element.outcomes[element.ids[1]] = ("interrupted", "killed")
    assert element.run() == ExitCode.REQUEUE
    assert requeued == ["7_0"] and element.started == element.ids[:2]
    element.requests.clear()
    element.outcomes.clear()
    assert element.run() == ExitCode.DONE
    assert element.started == [*element.ids[:2], *element.ids[1:]]


@pytest.mark.parametrize(
    "numbers", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGUSR1, signal.SIGTERM]]
)
def test_a_cancelled_element_does_not_come_back(element, requeued, numbers):
    element.requests[element.ids[0]] = numbers
    element.outcomes[element.ids[0]] = ("interrupted", "killed")
    assert element.run() == ExitCode.INTERRUPTED
    assert not requeued and element.started == element.ids[:1]
    assert element.of(1).status.status == "pending"


SIGNALLED_IMPORT = """
import os, runpy, sys

class Signal:
    def find_spec(self, name, path=None, target=None):
        if name == "harness.launch.slurm.element":
            os.kill(os.getpid(), {number:d})

sys.meta_path.insert(0, Signal())
runpy.run_module("harness", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGUSR1, ExitCode.REQUEUE), (signal.SIGTERM, ExitCode.INTERRUPTED)],
)
def test_a_signal_during_the_imports_is_not_lost(element, new_harness, number, code):
    new_harness.env |= JOB | {"PATH": ""}  # without scontrol
    program = ("-c", SIGNALLED_IMPORT.format(number=number))
    process = new_harness.start("_element", element.path, program=program)
    output, errors = process.communicate()
    assert process.returncode == code, errors
    assert number.name in output and {element.of(i).status.status for i in range(3)} == {"pending"}


def test_a_signal_in_the_last_run_requeues_nothing(element, requeued):
    element.requests[element.ids[-1]] = [signal.SIGUSR1]
    assert element.run() == ExitCode.DONE and not requeued


def test_a_job_that_cannot_be_requeued_keeps_its_state(element, monkeypatch, capsys):
    def refuse(job: str) -> None:
        raise CommandError("scontrol: Requested operation is presently disabled")

    monkeypatch.setattr(commands, "requeue", refuse)
    element.requests[element.ids[0]] = [signal.SIGUSR1]
    assert element.run() == ExitCode.REQUEUE
    assert "not put back: scontrol" in capsys.readouterr().out


def test_a_run_that_another_process_holds_is_left_to_it(element, monkeypatch):
    monkeypatch.setattr("harness.launch.slurm.element.CLAIM_WAIT_S", 0.0)
    with element.of(0).claim():
        assert element.run() == ExitCode.DONE
    assert element.started == element.ids[1:]


def test_a_run_of_other_code_than_submitted_is_refused(element, capsys):
    run = element.of(0)
    run.update_spec(run.spec.model_copy(update={"code_hash": "0" * 12}))
    assert element.run() == ExitCode.SOME_FAILED
    assert element.started == element.ids[1:]
    assert "not started" in capsys.readouterr().out


def test_jobs_on_one_host_meet_on_ports_of_their_own():
    import socket

    jobs = [this_job(JOB | {"SLURM_JOB_ID": str(number)}) for number in range(100, 400)]
    ports = [free_port(job) for job in jobs]
    assert len(set(ports)) == len(jobs)
    with socket.socket() as other:
        other.bind(("", ports[0]))
        other.listen()
        assert free_port(jobs[0]) != ports[0]


@pytest.mark.parametrize(
    ("cpus", "shares_cores", "is_alone"),
    [("2", False, False), ("4", False, True), ("4", True, False)],
)
def test_only_a_job_with_a_whole_node_measures_alone(monkeypatch, cpus, shares_cores, is_alone):
    monkeypatch.setattr(commands, "n_cpus", lambda node: 4)
    monkeypatch.setattr(commands, "shares_cores", lambda job: shares_cores)
    job = this_job(JOB | {"SLURM_CPUS_ON_NODE": cpus})
    assert has_whole_node(job, "n1") is is_alone


def test_each_attempt_on_nodes_has_a_name_of_its_own():
    names = set()
    for restarts in ("0", "1"):
        job: Job = this_job(JOB | {"SLURM_RESTART_COUNT": restarts, "SLURM_CPUS_PER_TASK": "3"})
        command = steps.command(Run(Path("a"), 1), job, "n1", 20_000)
        assert "--cpus-per-task=3" in command and "--endpoint=n1:20000" in command
        names.add(next(word for word in command if word.startswith("--id=")))
    assert len(names) == 2
