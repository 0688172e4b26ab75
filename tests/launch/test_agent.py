"""Without these, runs that train at once on one machine could disturb or end each other."""

import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing import forkserver, popen_forkserver

import psutil
import pytest
from command_line import all_end
from tiny_run import tiny_spec

from harness.errors import ClaimLost
from harness.launch import agent, fork_server
from harness.launch.slots import Slot
from harness.launch.stop import Stop
from harness.results.files import write_json
from harness.results.records import LaunchSpec, RunStatus
from harness.results.run import Run

pytestmark = pytest.mark.distributed

DONE = "run.finish('done')"
HANGS = "import time; time.sleep(3600)"
WAITS = "import time; time.sleep(60)"
IGNORES = f"import signal; signal.signal(15, signal.SIG_IGN); {HANGS}"
KILLED = "import os; os.kill(os.getpid(), 9)"
CANNOT_RECORD = "raise SystemExit(1)"


@pytest.fixture
def new_run(tmp_path, monkeypatch):
    """Return a function that makes a claimed run whose ranks execute a script."""
    monkeypatch.setattr(fork_server, "WORKER", "tiny_ranks")

    def make(name: str, script: str) -> Run:
        run = Run(tmp_path / name)
        run.path.mkdir()
        write_json(run.path / "status.json", RunStatus(status="pending"))
        run.path.with_suffix(".py").write_text(script)
        claim = run.claim()
        assert claim is not None
        return claim.run

    return make


def limits(world_size: int = 1, stall_timeout_s: float | None = None) -> LaunchSpec:
    return LaunchSpec(
        world_size=world_size,
        timeout_s=None,
        stall_timeout_s=stall_timeout_s,
        variant_paths=[],
        train_tokens=[],
        val_tokens=[],
        token_bytes="",
    )


def start_all(runs: Sequence[Run], launches, slots=None, stop=None) -> list[threading.Thread]:
    threads = []
    for run, launch, slot in zip(runs, launches, slots or [Slot()] * len(runs), strict=True):
        thread = threading.Thread(target=agent.start, args=(run, launch, slot, stop), daemon=True)
        thread.start()
        threads.append(thread)
    return threads


def facts(run: Run, rank: int = 0):
    return json.loads((run.path / f"rank{rank}.json").read_text())


def wait_for_ranks(runs: Sequence[Run], n_ranks: int = 1) -> None:
    paths = [run.path / f"rank{rank}.json" for run in runs for rank in range(n_ranks)]
    deadline = time.monotonic() + 120
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, [run.status for run in runs]
        time.sleep(0.02)


def processes(run: Run, n_ranks: int) -> list[psutil.Process]:
    return [psutil.Process(facts(run, rank)["pid"]) for rank in range(n_ranks)]


def test_runs_at_once_keep_to_their_slots(new_run):
    core = min(os.sched_getaffinity(0))
    runs = [new_run(f"r{index}", DONE) for index in range(8)]
    launches = [limits(world_size=1 + (index == 0)) for index in range(8)]
    slots = [Slot((f"GPU-{index}",), (core,), "shared") for index in range(7)] + [Slot()]
    for thread in start_all(runs, launches, slots):
        thread.join()
    assert [run.status.status for run in runs] == ["done"] * 8
    ports = {facts(run)["MASTER_PORT"] for run in runs}
    assert len(ports) == 8, "runs that share a port end together"
    for index, run in enumerate(runs[:7]):
        found = facts(run)
        assert found["CUDA_VISIBLE_DEVICES"] == f"GPU-{index}"
        assert found["cores"] == [core] and found["OMP_NUM_THREADS"] == "1"
        assert found["ABLATIONS_TIMING"] == "shared"
        assert set(fork_server.BLOCKED) <= set(found["blocked"]), "a signal before is lost"
    assert facts(runs[7])["cores"] == sorted(os.sched_getaffinity(0))
    assert facts(runs[7])["ABLATIONS_TIMING"] == "exclusive"
    assert facts(runs[0], rank=1)["MASTER_PORT"] == facts(runs[0])["MASTER_PORT"]


def test_a_run_that_fails_or_hangs_ends_alone(new_run):
    scripts = {"hangs": HANGS, "killed": KILLED, "silent": CANNOT_RECORD, "waits": HANGS}
    runs = {name: new_run(name, script) for name, script in scripts.items()}
    stop = Stop()
    launches = [limits(stall_timeout_s=2 if name == "hangs" else None) for name in runs]
    threads = dict(zip(runs, start_all([*runs.values()], launches, stop=stop), strict=True))
    for name in ("hangs", "killed", "silent"):
        threads[name].join()
    statuses = {name: run.status for name, run in runs.items()}
    assert (statuses["hangs"].status, statuses["hangs"].reason) == ("failed", "timeout")
    assert (statuses["killed"].status, statuses["killed"].reason) == ("failed", "killed")
    assert "SIGKILL" in str(statuses["killed"].message)
    assert statuses["silent"].status == "failed" and "exit code 1" in statuses["silent"].message
    assert statuses["waits"].status == "running" and threads["waits"].is_alive()
    stop.request(signal.SIGTERM)
    threads["waits"].join()


EXITS = {
    "os._exit": "import os; os._exit(0)",
    "a thread": "import os, threading, time; threading.Thread(target=os._exit, args=(0,)).start(); "
    "time.sleep(60)",
    "exit of C": "import ctypes; ctypes.CDLL(None).exit(0)",
    "another program": "import os; os.execv('/bin/true', ['true'])",
}


@pytest.mark.parametrize("script", EXITS.values(), ids=EXITS)
def test_a_rank_that_exits_with_code_0_fails_its_run(new_run, script):
    """torchrun's engine would wait for its result; the other rank ends too."""
    runs = [new_run("alone", script), new_run("pair", f"if rank: {script}\n{WAITS}")]
    started = time.monotonic()
    threads = start_all(runs, [limits(1), limits(2)])
    for thread in threads:
        thread.join(timeout=40)
        assert not thread.is_alive()
    assert time.monotonic() - started < 40
    for run, rank in zip(runs, (0, 1), strict=True):
        status = run.status
        assert (status.status, status.reason) == ("failed", "error")
        assert status.message.startswith(f"rank {rank} ended with exit code 0 before")


def test_a_run_that_is_done_may_exit_with_code_0(new_run):
    run = new_run("a", f"{DONE}; import os; os._exit(0)")
    agent.start(run, limits())
    assert run.status.status == "done"


def test_a_killed_fork_server_is_named(new_run):
    """Its ranks end, and the next run has another one."""
    run = new_run("a", HANGS)
    (thread,) = start_all([run], [limits(2)])
    wait_for_ranks([run], n_ranks=2)
    ranks = processes(run, 2)
    server = forkserver._forkserver._forkserver_pid
    os.kill(server, signal.SIGKILL)
    thread.join()
    assert (run.status.status, run.status.reason) == ("failed", "killed")
    assert "the fork server, its parent process, was killed" in run.status.message
    assert all_end(ranks)
    after = new_run("b", DONE)
    agent.start(after, limits())
    assert after.status.status == "done" and forkserver._forkserver._forkserver_pid != server


@pytest.mark.parametrize("rank", range(2))
@pytest.mark.parametrize("moment", ["before it reads", "before it answers"])
def test_a_fork_server_that_is_killed_while_ranks_start_is_named(
    new_run, monkeypatch, moment, rank
):
    """No other rank stays."""
    run = new_run("a", HANGS)
    requests = []
    ranks = []
    connect = forkserver._forkserver.connect_to_new_process

    def connect_and_kill(descriptors):
        requests.append(descriptors)
        if len(requests) <= rank:
            return connect(descriptors)
        wait_for_ranks([run], n_ranks=rank)
        ranks.extend(processes(run, rank))
        forkserver.ensure_running()
        server = psutil.Process(forkserver._forkserver._forkserver_pid)
        server.suspend()
        try:
            return connect(descriptors)
        finally:
            if moment == "before it reads":
                server.kill()
                assert all_end([server])
            else:
                threading.Timer(0.3, server.kill).start()

    monkeypatch.setattr(forkserver, "connect_to_new_process", connect_and_kill)
    agent.start(run, limits(2))
    assert (run.status.status, run.status.reason) == ("failed", "killed")
    assert "the fork server, its parent process, was killed" in run.status.message
    assert len(ranks) == rank and all_end(ranks)


ABORTED = "import os; print('terminate called: std::bad_alloc', flush=True); os.abort()"


@pytest.mark.parametrize(
    ("script", "n_kills", "reason"),
    [
        (KILLED, [3, 4], "oom"),
        (KILLED, [3, 3], "killed"),
        (KILLED, [None, None], "killed"),
        (KILLED, [None, 4], "killed"),
        (ABORTED, [3, 3], "oom"),
        ("import os; os.abort()", [3, 4], "killed"),
    ],
)
def test_a_rank_that_the_kernel_ends_lacks_memory(
    new_run, monkeypatch, tmp_path, script, n_kills, reason
):
    """The kernel counts what it ends; a signal of somebody else is none of these."""
    before, after = n_kills
    counts = iter([before])
    monkeypatch.setattr(agent, "n_oom_kills", lambda: next(counts, after))
    run = new_run("run", script)
    write_json(run.path / "spec.json", tiny_spec(tmp_path))
    start_all([run], [limits()])[0].join()
    status = run.status
    assert (status.status, status.reason) == ("failed", reason)
    assert ("available: " in status.message) == (reason == "oom")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGKILL])
def test_one_request_stops_all_runs(new_run, number):
    runs = [new_run("a", HANGS), new_run("b", HANGS)]
    stop = Stop()
    threads = start_all(runs, [limits()] * 2, stop=stop)
    wait_for_ranks(runs)
    stop.request(number)
    for thread in threads:
        thread.join()
    assert [run.status.status for run in runs] == ["interrupted"] * 2


def test_a_rank_that_ignores_the_request_is_killed(new_run, monkeypatch):
    monkeypatch.setattr(agent, "STOP_GRACE_S", 0.5)
    run = new_run("a", IGNORES)
    stop = Stop()
    (thread,) = start_all([run], [limits()], stop=stop)
    wait_for_ranks([run])
    stop.request(signal.SIGTERM)
    thread.join()
    assert run.status.status == "interrupted"


COUNTS = """
import signal, time
numbers = []
signal.signal(15, lambda number, frame: numbers.append(number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, [15])
while not numbers: time.sleep(0.01)
time.sleep(1)
(run.path / "signals").write_text(str(len(numbers)))
"""


@pytest.mark.parametrize("limit_s", [1e-9, 1.0])
@pytest.mark.parametrize("request_s", [None, 0.2])
def test_a_short_limit_signals_a_rank_once(new_run, monkeypatch, limit_s, request_s):
    """Also if the user stops the run at the same time: each signal may end what a rank saves."""
    monkeypatch.setattr(agent, "RANKS_MARGIN_S", 0.0)
    run = new_run("a", COUNTS)
    stop = Stop()
    (thread,) = start_all([run], [limits(stall_timeout_s=limit_s)], stop=stop)
    if request_s is not None:
        wait_for_ranks([run])
        time.sleep(request_s)
        stop.request(signal.SIGTERM)
    thread.join(timeout=60)
    assert not thread.is_alive() and (run.path / "signals").read_text() == "1"


def test_a_run_that_another_process_took_over_is_left(new_run, monkeypatch):
    """Its ranks are killed, and its status is the new owner's."""
    monkeypatch.setattr(agent, "CLAIM_CHECK_INTERVAL_S", 0.1)
    run = new_run("a", HANGS)
    errors = []

    def start() -> None:
        try:
            agent.start(run, limits())
        except ClaimLost as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    wait_for_ranks([run])
    before = run.path.joinpath("status.json").read_bytes()
    (run.claims / f"{run.claim_number}.json").rename(run.claims / "1.released")
    thread.join()
    assert len(errors) == 1 and run.path.joinpath("status.json").read_bytes() == before


def test_a_batch_systems_signals_leave_the_fork_server(new_run):
    """A job's end signals each of its processes; with the fork server, the ranks would end."""
    agent.start(new_run("a", DONE), limits())
    server = forkserver._forkserver._forkserver_pid
    for number in fork_server.BLOCKED:
        os.kill(server, number)
    run = new_run("b", DONE)
    agent.start(run, limits())
    assert run.status.status == "done" and forkserver._forkserver._forkserver_pid == server


def test_two_threads_read_one_exit_code(monkeypatch):
    """`Process.start` in one thread also asks for the exit codes of the others' processes."""
    fork_server.start_fork_server()
    reader, writer = os.pipe()
    process = object.__new__(popen_forkserver.Popen)
    process.returncode = None
    process.sentinel = reader
    read_signed = forkserver.read_signed

    def read_slowly(fd):
        time.sleep(0.1)
        if os.get_blocking(fd):
            os.set_blocking(fd, False)
        return read_signed(fd)

    monkeypatch.setattr(forkserver, "read_signed", read_slowly)
    forkserver.write_signed(writer, 0)
    codes = []
    threads = [threading.Thread(target=lambda: codes.append(process.poll())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(reader)
    os.close(writer)
    assert codes == [0, 0] and process.returncode == 0
