"""Without these, runs that train at once would share devices, stop each other, or be lost."""

import os
import signal
import threading
from collections import Counter

import pytest
from untrained_study import UntrainedStudy

from harness.errors import UserError
from harness.launch import gpus, machine
from harness.launch.backend import Stopped
from harness.launch.local import LocalBackend
from harness.launch.machine import Machine, check_machine, find_machine
from harness.launch.reservations import Reservations
from harness.launch.slots import Slot
from harness.results.records import Environment

MEETING_S = 60  # until so many runs train at once


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.fsync", lambda fd: None)
    study = UntrainedStudy(tmp_path / "study")
    set_seeds(study, 3)
    return study


def set_seeds(study, n):
    file = study.folder / "study.toml"
    file.write_text(file.read_text().replace("seeds = [0]", f"seeds = {list(range(n))}"))


class Starts:
    """Stands for the agent: `n_at_once` runs must meet before any of them ends."""

    def __init__(self, study, n_at_once=1):
        self.study = study
        self.slots: dict[str, Slot] = {}
        self.in_use: Counter[str] = Counter()
        self.most = 0
        self._running = 0
        self._lock = threading.Lock()
        self._meeting = threading.Barrier(n_at_once)

    def __call__(self, run, launch, slot, stop):
        run.mark_running()
        with self._lock:
            self.slots[run.run_id] = slot
            self.in_use.update([*slot.devices, *map(str, slot.cores)])
            assert max(self.in_use.values(), default=1) == 1
            self._running += 1
            self.most = max(self.most, self._running)
        self._meeting.wait(MEETING_S)
        run.write_env(Environment(timing=slot.timing))
        run.finish("done")
        with self._lock:
            self._running -= 1
            self.in_use.subtract([*slot.devices, *map(str, slot.cores)])


def planned_runs(study, widths=(1,)):
    """Plan the study; its runs get these numbers of processes, in turn."""
    planned = study.plan()
    specs = []
    for i, spec in enumerate(planned.runs):
        update = {"world_size": widths[i % len(widths)], "n_devices": None}
        launch = spec.launch.model_copy(update=update)
        specs.append(spec.model_copy(update={"launch": launch}))
    planned.runs[:] = specs
    for spec in specs:
        study.store.run("s", spec.run_id).create(spec)
    return specs


def statuses(study):
    return [run.status.status for run in study.store.runs("s")]


def test_a_cpu_trains_one_run_at_a_time(study):
    starts = Starts(study)
    LocalBackend(starts).run_all(study.store, planned_runs(study), fail_fast=False)
    assert statuses(study) == ["done"] * 6 and starts.most == 1
    assert set(starts.slots.values()) == {Slot()}


def test_runs_share_out_devices_and_none_has_two_runs(study, monkeypatch):
    monkeypatch.setenv(gpus.FAKE, "4")
    starts = Starts(study)
    specs = planned_runs(study, (1, 2, 4))
    LocalBackend(starts).run_all(study.store, specs, fail_fast=False)
    assert statuses(study) == ["done"] * 6
    for spec in specs:
        slot = starts.slots[spec.run_id]
        assert len(set(slot.devices)) == spec.launch.world_size
        assert slot.timing == ("exclusive" if spec.launch.world_size == 4 else "shared")


@pytest.mark.parametrize(("parallel", "n_at_once"), [(None, 3), (2, 2)])
def test_as_many_runs_at_once_as_fit(study, monkeypatch, parallel, n_at_once):
    monkeypatch.setenv(gpus.FAKE, "3")
    starts = Starts(study, n_at_once)
    LocalBackend(starts, parallel).run_all(study.store, planned_runs(study), fail_fast=False)
    assert statuses(study) == ["done"] * 6 and starts.most == n_at_once


def test_parallel_runs_on_a_cpu_have_cores_of_their_own(study, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5, 6, 7, 8})
    starts = Starts(study, 2)
    LocalBackend(starts, 2).run_all(study.store, planned_runs(study), fail_fast=False)
    assert {len(slot.cores) for slot in starts.slots.values()} == {2}
    assert {slot.timing for slot in starts.slots.values()} == {"shared"}


def test_a_failed_run_frees_its_device_and_stops_no_other(study, monkeypatch):
    monkeypatch.setenv(gpus.FAKE, "2")

    def fail_first(run, launch, slot, stop):
        run.mark_running()
        run.finish("failed" if run.spec.seed == 0 else "done", "error", "planted")

    LocalBackend(fail_first).run_all(study.store, planned_runs(study), fail_fast=False)
    assert Counter(statuses(study)) == {"failed": 2, "done": 4}


def test_fail_fast_ends_the_other_runs_after_their_step(study, monkeypatch):
    monkeypatch.setenv(gpus.FAKE, "2")
    meeting = threading.Barrier(2)

    def fail_or_wait(run, launch, slot, stop):
        run.mark_running()
        if meeting.wait(MEETING_S) == 0:
            run.finish("failed", "error", "planted")
            return
        while stop.requested is None:
            threading.Event().wait(0.01)
        run.finish("interrupted", "killed", f"asked by {stop.requested.name}")

    LocalBackend(fail_or_wait).run_all(study.store, planned_runs(study), fail_fast=True)
    assert Counter(statuses(study)) == {"failed": 1, "interrupted": 1, "pending": 4}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_runs_and_starts_none(study, monkeypatch, number):
    monkeypatch.setenv(gpus.FAKE, "2")
    meeting = threading.Barrier(2)

    def wait_for_stop(run, launch, slot, stop):
        run.mark_running()
        if meeting.wait(MEETING_S) == 0:
            os.kill(os.getpid(), number)
        while stop.requested is None:
            threading.Event().wait(0.01)
        run.finish("interrupted", "killed", f"asked by {stop.requested.name}")

    with pytest.raises(Stopped, match="the same command resumes"):
        LocalBackend(wait_for_stop).run_all(study.store, planned_runs(study), fail_fast=False)
    assert Counter(statuses(study)) == {"interrupted": 2, "pending": 4}


def test_an_error_of_one_thread_ends_the_others_and_is_raised(study, monkeypatch):
    monkeypatch.setenv(gpus.FAKE, "2")
    meeting = threading.Barrier(2)

    def raise_or_wait(run, launch, slot, stop):
        run.mark_running()
        if meeting.wait(MEETING_S) == 0:
            raise OSError("planted")
        while stop.requested is None:
            threading.Event().wait(0.01)
        run.finish("interrupted", "killed", "x")

    with pytest.raises(OSError, match="planted"):
        LocalBackend(raise_or_wait).run_all(study.store, planned_runs(study), fail_fast=False)
    assert Counter(statuses(study))["pending"] == 4


def test_runs_of_another_process_are_awaited(study, capsys):
    specs = planned_runs(study)
    held = study.store.run("s", specs[0].run_id).claim()
    assert held is not None
    others_done = threading.Event()

    def finish_the_held(run, launch, slot, stop):
        run.mark_running()
        run.finish("done")
        if statuses(study).count("done") == 5:
            others_done.set()

    def leave():
        others_done.wait(MEETING_S)
        held.release()

    thread = threading.Thread(target=leave)
    thread.start()
    LocalBackend(finish_the_held).run_all(study.store, specs, fail_fast=False)
    thread.join()
    assert statuses(study) == ["done"] * 6


def test_devices_of_another_launch_are_not_taken(study, monkeypatch):
    """Two launches on one machine: the second one waits for what the first one has."""
    monkeypatch.setenv(gpus.FAKE, "2")
    starts = Starts(study)
    with Reservations() as other:
        free = other.take(["fake-1"])
        assert free is not None
        LocalBackend(starts).run_all(study.store, planned_runs(study), fail_fast=False)
    assert {slot.devices for slot in starts.slots.values()} == {("fake-0",)}
    assert starts.most == 1
    assert {run.env.timing for run in study.store.runs("s")} == {"shared"}


def test_cores_of_another_launch_are_left_to_it(study, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    specs = planned_runs(study)
    with Reservations() as first, Reservations() as second:
        theirs = find_machine(specs, 2, first, print)
        with pytest.raises(UserError, match="other launches leave 0"):
            find_machine(specs, 2, second, print)
    with Reservations() as third:
        assert find_machine(specs, 2, third, print).units == theirs.units
        assert third.take(["core-0"]) is None


def test_more_runs_than_cores_are_refused(study, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 2)
    (problem,) = check_machine(planned_runs(study), 3)
    assert "launch.parallel" in str(problem) and "at most 2" in str(problem)


def test_a_run_that_is_too_wide_is_refused_by_name(study, monkeypatch):
    monkeypatch.setenv(gpus.FAKE, "2")
    problems = check_machine(planned_runs(study, (4, 1)), None)
    assert [problem.location for problem in problems] == ["learned-mha-single"]


def test_gpus_in_use_are_left_out_and_named(study, monkeypatch):
    specs = planned_runs(study)
    train = specs[0].train.model_copy(update={"device": "cuda"})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "visible", lambda environment: ["GPU-a", "GPU-b", "GPU-c"])
    monkeypatch.setattr(gpus, "in_use", lambda: {"GPU-b": "process 7 holds 9 MiB"})
    on_gpus = [spec.model_copy(update={"train": train}) for spec in specs]
    notes = []
    with Reservations() as reservations:
        found = find_machine(on_gpus, None, reservations, notes.append)
    assert [unit.device for unit in found.units] == ["GPU-a", "GPU-c"]
    assert notes == ["GPU-b is left out: process 7 holds 9 MiB"]
    assert isinstance(found, Machine) and found.limit == 2


def test_shared_runs_are_timed_alone_once(study, monkeypatch):
    monkeypatch.setenv(gpus.FAKE, "2")
    specs = planned_runs(study)
    starts = Starts(study, 2)
    LocalBackend(starts).run_all(study.store, specs, fail_fast=False)
    alone = Starts(study)
    backend = LocalBackend(alone)
    backend.time_runs(study.store, specs, 7)
    assert alone.most == 1 and len(alone.slots) == 6
    assert {slot.timing for slot in alone.slots.values()} == {"exclusive"}
    for run in study.store.runs("s"):
        timed = run.timing_run
        assert timed.status.status == "done" and timed.code_hash == run.code_hash
        assert timed.spec.train.steps == 12 and run.spec.train.steps == 4
    again = Starts(study)
    LocalBackend(again).time_runs(study.store, specs, 7)
    assert again.slots == {}
    assert len(study.store.runs("s")) == 6
    LocalBackend(again).time_runs(study.store, specs, 8)
    assert len(again.slots) == 6
