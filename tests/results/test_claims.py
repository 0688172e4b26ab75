"""Without these, two processes could train one run, or a run of a dead process would never end."""

import errno
import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from harness.results import claims, manage, owner
from harness.results.claims import owner_of
from harness.results.run import Run
from harness.results.store import Store

FORK = multiprocessing.get_context("fork")
N_RACERS = 8
N_ROUNDS = 200
GONE = {"pid": 2**30}
OTHER = {"boot_id": "another kernel", "host": "node-2"}


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "study" / "run")


@pytest.fixture
def plant(run):
    """Return a function that plants a claim of another process, with the changes of its owner."""

    def plant_claim(number=1, silent_s=0.0, **changes):
        run.claims.mkdir(parents=True, exist_ok=True)
        path = run.claims / f"{number}.json"
        other = owner.this_process().model_copy(update={"pid": os.getppid()} | changes)
        started = psutil.Process(os.getppid()).create_time()
        path.write_text(other.model_copy(update={"pid_started": started}).model_dump_json())
        beat = path.stat().st_mtime - silent_s
        os.utime(path, (beat, beat))
        return path

    return plant_claim


def take(run):
    claim = run.claim()
    assert claim is not None
    return claim


# -- rules ----------------------------------------------------------------------------------------

PLACES = {
    "this kernel": {},
    "another host": OTHER,
    "another namespace": {"pid_namespace": "pid:[1]"},
    "another boot": {"boot_id": "before"},
}
SILENCES = {"fresh": 1.0, "silent": 61.0, "ahead": -5.0, "unknown": None}
JOBS = {
    "no job": ((None, 0), (None, 0)),
    "same start": (("7_1", 1), ("7_1", 1)),
    "earlier start": (("7_1", 1), ("7_1", 2)),
    "later start": (("7_1", 2), ("7_1", 1)),
    "another job": (("7_1", 0), ("7_2", 1)),
}


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize(
    ("place", "silence", "job"), list(itertools.product(PLACES, SILENCES, JOBS))
)
def test_an_owner_is_judged_by_what_can_be_known(monkeypatch, exists, place, silence, job):
    monkeypatch.setattr(owner, "process_exists", lambda pid, started: exists)
    (owned, n_owner), (observed, n_observer) = JOBS[job]
    here = owner.this_process().model_copy(update={"job": observed, "job_restarts": n_observer})
    other = here.model_copy(update=PLACES[place] | {"job": owned, "job_restarts": n_owner})
    expected = exists if place == "this kernel" else silence != "silent"
    expected = expected and job != "earlier start"
    assert owner.is_alive(other, here, lambda: SILENCES[silence]) == expected


@pytest.mark.parametrize("silence", SILENCES)
def test_an_unknown_owner_is_judged_by_its_silence(silence):
    """Of a claim that a crash left empty, no process is known."""
    here = owner.this_process()
    assert owner.is_alive(None, here, lambda: SILENCES[silence]) == (silence != "silent")


@pytest.mark.parametrize(
    ("environment", "job"),
    {
        "none": ({}, (None, 0)),
        "job": ({"SLURM_JOB_ID": "7"}, ("7", 0)),
        "restarted": ({"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2"}, ("7", 2)),
        "element": (
            {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"},
            ("7_2", 0),
        ),
    }.values(),
)
def test_an_owner_names_its_job_as_slurm_does(monkeypatch, environment, job):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    here = owner.this_process()
    assert (here.job, here.job_restarts) == job


def test_a_forked_child_is_another_owner():
    here = owner.this_process()
    with FORK.Pool(1) as pool:
        child = pool.apply(owner.this_process)
    assert child.pid != here.pid and child.boot_id == here.boot_id


# -- claims ---------------------------------------------------------------------------------------


def test_a_claim_is_held_until_its_release(run):
    first = take(run)
    assert run.claim() is None and Run(run.path).claim() is None
    assert owner_of(run.claims) == owner.this_process()
    first.release()
    assert owner_of(run.claims) is None and not first.is_current()
    with take(run) as second:
        assert second.number > first.number and second.run.claim_number == second.number
    first.release()  # no effect any more
    assert take(run).number > second.number


STATES = {
    "a live process": ({}, False),
    "a dead process": (GONE, True),
    "another host": (OTHER, False),
    "a silent host": (OTHER | {"silent_s": 61}, True),
    "a live process without beats": ({"silent_s": 61}, False),
}


@pytest.mark.parametrize(("state", "is_free"), STATES.values(), ids=STATES)
def test_a_claim_of_a_dead_owner_alone_is_taken_over(run, plant, state, is_free):
    path = plant(number=4, **state)
    claim = run.claim()
    assert (claim is not None) == is_free and path.exists() != is_free
    if claim is not None:
        assert claim.number == 5 and claim.is_current()


CONTENTS = {"empty": "", "torn": '{"host": "a', "no owner": "[1]", "of later code": '{"a": 1}'}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_torn_claim_is_free_only_after_a_silence(run, plant, content):
    """Its owner crashed while it wrote, or writes right now."""
    path = plant()
    path.write_text(content)
    assert run.claim() is None
    beat = path.stat().st_mtime - owner.SILENCE_S - 1
    os.utime(path, (beat, beat))
    assert take(run).number == 2


@pytest.mark.parametrize("skew_s", [-1e6, 0.0, 1e6])
def test_a_heartbeat_is_judged_by_the_servers_clock(run, plant, monkeypatch, skew_s):
    """The clock of the observer's host may be wrong by days."""
    path = plant(**OTHER)
    set_time = os.utime

    def set_server_time(path, times=None):
        server_now = time.time() + skew_s
        set_time(path, times or (server_now, server_now))

    monkeypatch.setattr(os, "utime", set_server_time)
    claims.Fence(path.parent, 1).beat()
    assert abs(claims.silence_s(path)) < 30 and run.claim() is None
    late = path.stat().st_mtime - owner.SILENCE_S - 30
    set_time(path, (late, late))
    assert run.claim() is not None


def test_a_folder_without_write_access_frees_no_claim(run, plant, monkeypatch):
    """Its observer cannot read the file server's clock."""
    path = plant(**OTHER, silent_s=1000)

    def refuse(path, times=None):
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(os, "utime", refuse)
    assert claims.silence_s(path) is None and owner_of(run.claims) is not None
    assert [name.name for name in run.claims.iterdir()] == ["1.json"]


def test_a_file_system_without_hard_links_has_claims(run, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    claim = take(run)
    assert run.claim() is None and owner_of(run.claims) == owner.this_process()
    claim.release()
    assert take(run).number == 2


@pytest.mark.parametrize("n_successors", [1, 2, 3])
def test_a_late_claim_of_a_taken_number_is_void(run, plant, monkeypatch, n_successors):
    """Between its look and its claim, another process took the run over and left it."""
    plant(**GONE)
    create = claims.create

    def create_late(temporary, path):
        monkeypatch.setattr(claims, "create", create)
        for _ in range(n_successors):
            take(run).release()
        os.makedirs(path.parent, exist_ok=True)
        temporary.write_text("{}")  # the successors have removed it
        return create(temporary, path)

    monkeypatch.setattr(claims, "create", create_late)
    assert run.claim() is None
    assert [path.name for path in run.claims.iterdir()] == [f"{n_successors + 1}.released"]


def race(run, barrier, results):
    numbers = []
    for _ in range(N_ROUNDS):
        barrier.wait()
        claim = run.claim()
        numbers.append(None if claim is None else claim.number)
        barrier.wait()
        if claim is not None:  # a dead owner again
            claims._heart().remove(claim._fence)
            content = owner.this_process().model_copy(update=GONE).model_dump_json()
            claim._fence.path.write_text(content)
    results.put(numbers)


def test_of_many_processes_one_takes_a_dead_claim_over(run, plant):
    plant(**GONE)
    barrier = FORK.Barrier(N_RACERS)
    results = FORK.Queue()
    racers = [FORK.Process(target=race, args=(run, barrier, results)) for _ in range(N_RACERS)]
    for racer in racers:
        racer.start()
    columns = [results.get() for _ in racers]
    for racer in racers:
        racer.join()
    rounds = [[number for number in row if number] for row in zip(*columns, strict=True)]
    assert rounds == [[number] for number in range(2, N_ROUNDS + 2)]


def increment(run, counter, n_times):
    for _ in range(n_times):
        claim = run.claim(wait_s=0)
        while claim is None:
            claim = run.claim(wait_s=0)
        with claim:
            counter.write_text(str(int(counter.read_text()) + 1))


@pytest.mark.parametrize("kind", [FORK.Process, threading.Thread])
def test_claims_exclude_each_other(run, tmp_path, kind):
    """A claim that ends at once leaves a number that others may have seen as the newest."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    racers = [kind(target=increment, args=(run, counter, 100)) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert counter.read_text() == "300"
    assert take(run).number == 301


def test_who_waits_gets_the_claim_of_a_killed_process(run):
    """On one machine at once: its process id is known to be gone."""
    code = (
        "import sys; from pathlib import Path; from harness.results.run import Run\n"
        "claim = Run(Path(sys.argv[1])).claim(); print(claim.number, flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"1\n"
    assert run.claim(wait_s=0.1) is None and owner_of(run.claims).pid == holder.pid
    timer = threading.Timer(0.1, holder.kill)
    timer.start()
    assert run.claim(wait_s=60).number == 2
    holder.communicate()


def release_in_child(claim):
    claim.release()
    with claim:
        pass


def test_a_forked_child_does_not_release_its_parents_claim(run):
    claim = take(run)
    child = FORK.Process(target=release_in_child, args=(claim,))
    child.start()
    child.join()
    assert child.exitcode == 0 and claim.is_current() and run.claim() is None


def wait_for_beat(path):
    os.utime(path, (0, 0))
    while path.stat().st_mtime == 0:
        time.sleep(0.01)


def test_all_held_claims_beat_until_released(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.01)
    runs = [Run(tmp_path / "study" / name) for name in "abc"]
    held = [take(run) for run in runs]
    for claim in held:
        wait_for_beat(claim._fence.path)
    held[0].release()
    released = runs[0].claims / "1.released"
    os.utime(released, (0, 0))
    wait_for_beat(held[1]._fence.path)
    assert released.stat().st_mtime == 0
    # A child has no thread of its parent, and one of its own claims.
    child = FORK.Process(target=lambda: wait_for_beat(take(Run(tmp_path / "study/d"))._fence.path))
    child.start()
    child.join()
    assert child.exitcode == 0


def test_a_rank_keeps_the_claim_of_its_run_alive(run, plant):
    path = plant(**OTHER, silent_s=1000)
    assert Run(run.path, 1).beat() and run.claim() is None
    path.unlink()
    assert not Run(run.path, 1).beat() and not path.exists()


def test_a_moved_study_is_free_for_the_process_that_moved_it(tmp_path):
    store = Store(tmp_path)
    run = store.run("before", "run")
    run.path.mkdir(parents=True)
    (run.path / "status.json").write_text('{"schema_version": 3, "status": "pending"}')
    manage.rename(store, "before", "after")
    assert take(store.run("after", "run")).number == 2


def test_old_locks_and_strange_files_are_no_claims(run):
    run.claims.mkdir(parents=True)
    for name in ("x.json", ".json", "1.json.swp", "7.tmp", "-3.json", "1.5.released.txt"):
        (run.claims / name).write_text("")
    (run.claims.parent / "run.lock").write_text("")
    assert take(run).number == 1


def test_many_claims_of_a_run_leave_one_file(tmp_path):
    for index in range(3):
        for _ in range(10):
            take(Run(tmp_path / "study" / str(index))).release()
    files = [path.name for path in (tmp_path / "study/.claims").glob("*/*")]
    assert files == ["10.released"] * 3
