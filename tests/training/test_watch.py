"""If these failed, a lost peer would hang the run, or a slow step would end it."""

import time
from types import SimpleNamespace

import pytest
import torch
from tiny_run import tiny_spec

from harness.distributed.process_group import DistributedContext
from harness.errors import ExitCode
from harness.results import limits as limiting
from harness.results.files import write_json
from harness.training import roll_call
from harness.training import watch as watching
from harness.training.main import _record_failure
from harness.training.signals import StopRequest
from harness.training.watch import Watch

N_CHECKS = 200  # of a watch, more than any test needs
LIMITS_S = [8.0, 10.0, 30.0, 60.0, 120.0, 600.0]
N_RANKS = 4
N_STEPS = 3
RECORDING_S = 0.1


class Ended(BaseException):
    """The process would have ended."""


def end(code: int) -> None:
    raise Ended(code)


@pytest.fixture
def watched(running, monkeypatch):
    """Return a function that makes the watch of a rank, which raises `Ended` in place of ending."""
    monkeypatch.setattr(watching, "print_stacks", lambda message: None)
    monkeypatch.setattr(watching, "STACK_DUMP_GRACE_S", 0.0)
    monkeypatch.setattr(watching.os, "_exit", end)

    def make(rank=0, world_size=1, stop=None, **limits):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world_size))
        launch = running.spec.launch.model_copy(update=limits)
        return Watch(running, launch, stop or StopRequest())

    return make


def check_until_ended(watch) -> int:
    with pytest.raises(Ended) as ending:
        for _ in range(N_CHECKS):
            watch._check()
            time.sleep(0.02)
    return ending.value.args[0]


@pytest.mark.parametrize(("world_size", "reason"), [(1, "timeout"), (2, "lost")])
def test_a_rank_without_progress_ends_itself(watched, running, world_size, reason):
    watch = watched(world_size=world_size, stall_timeout_s=0.2)
    assert check_until_ended(watch) == ExitCode.SOME_FAILED
    assert (running.status.status, running.status.reason) == ("failed", reason)
    assert "launch.stall_timeout_s = 0.2 s" in running.status.message


@pytest.mark.parametrize(
    ("reason", "claim", "ends"),
    [
        ("timeout", 0, True),
        ("lost", 0, True),
        pytest.param("error", 0, False, id="another failure"),
        pytest.param("timeout", -1, False, id="of an earlier attempt"),
        pytest.param("timeout", None, False, id="of no claim"),
    ],
)
def test_a_rank_ends_with_the_stall_that_a_peer_records(
    watched, running, monkeypatch, reason, claim, ends
):
    """The record is a change of the run's files: a rank that looks later finds no stall."""
    printed = []
    monkeypatch.setattr(watching, "print_stacks", printed.append)
    watch = watched(rank=1, world_size=2, stall_timeout_s=30.0)
    watch._check()
    running.finish("failed", reason, "no sign of life")
    status = running.status
    number = None if claim is None else status.claim + claim
    write_json(running.path / "status.json", status.model_copy(update={"claim": number}))
    if ends:
        assert check_until_ended(watch) == ExitCode.SOME_FAILED
        assert printed == ["rank 1: no sign of life"] and running.status == status
    else:
        watch._check()
        assert not printed


def test_a_time_limit_lets_the_run_save_first(watched):
    stop = StopRequest()
    watch = watched(stop=stop, timeout_s=0.1)
    for _ in range(N_CHECKS):
        if not stop.requested:
            watch._check()
            time.sleep(0.02)
    assert stop.requested == ExitCode.INTERRUPTED and watch.timeout is not None


def test_a_rank_that_waits_for_its_peers_ends_at_once(watched):
    """They may never come: a process started by hand for a run of another one ends its peers."""
    stop = StopRequest()
    watch = watched(world_size=2, stop=stop)
    stop.request(ExitCode.INTERRUPTED)
    assert check_until_ended(watch) == ExitCode.INTERRUPTED


def test_a_rank_whose_run_was_taken_over_records_nothing(watched, running, monkeypatch):
    watch = watched()
    (running.claims / f"{running.claim_number}.json").unlink()
    before = (running.path / "status.json").read_bytes()
    watch._beaten -= watching.HEARTBEAT_S
    assert check_until_ended(watch) == ExitCode.CLAIM_LOST
    monkeypatch.setattr("harness.training.main.PEER_RECORD_S", 0.0)
    lost = torch.distributed.DistNetworkError("The client socket has timed out")
    for error in (lost, ValueError("own")):
        _record_failure(running, error, StopRequest())
    assert (running.path / "status.json").read_bytes() == before


# -- a run of several ranks, in simulated time ----------------------------------------------------


class Clock:
    """The module `time` of all ranks; `skew_s` is how far the file server's clock is ahead."""

    def __init__(self, skew_s: float) -> None:
        self.now = 1000.0
        self.skew_s = skew_s

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Return at once: the other ranks go on in the meantime."""


class SimulatedRun:
    """The files of a run, which is also its status; `is_away` is whether the server is away."""

    claim_number = 1
    status = SimpleNamespace(status="running", reason=None, claim=1)

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.is_away = False
        self.failures: dict[int, tuple[float, str, str]] = {}  # as each rank records it
        self.rank = 0  # that checks now
        self.write()

    def write(self) -> None:
        self.written = self.clock.now

    def last_activity(self) -> float:
        if self.is_away:
            raise OSError("stale file handle")
        return self.written + self.clock.skew_s

    def beat(self) -> bool:
        if self.is_away:
            raise OSError("stale file handle")
        return True

    def finish(self, status: str, reason: str, message: str) -> None:
        if self.is_away:
            raise OSError("stale file handle")
        assert status == "failed"
        self.failures[self.rank] = (self.clock.now, reason, message)


class Hanging(BaseException):
    """The request would not return."""


class SimulatedStore:
    """The store as one rank sees it, on the host of rank 0."""

    def __init__(self, simulation: "Simulation", rank: int) -> None:
        self.simulation = simulation
        self.rank = rank

    def add(self, key: str, amount: int) -> int:
        lost = self.simulation.lost
        if lost and (self.rank in lost) != (0 in lost):
            raise Hanging
        counts = self.simulation.counts
        counts[key] = counts.get(key, 0) + amount
        return counts[key]


class SimulatedThread:
    """A thread that has ended when it was started, unless its request does not return."""

    def __init__(self, target, args=(), daemon=False) -> None:
        self.run = lambda: target(*args)
        self.hangs = False

    def start(self) -> None:
        try:
            self.run()
        except Hanging:
            self.hangs = True

    def is_alive(self) -> bool:
        return self.hangs


class Simulation:
    """The watches of some ranks: those in `lost` do not reach the others from some time on."""

    def __init__(self, monkeypatch, limit_s: float, folder, skew_s: float = 0.0) -> None:
        self.clock = Clock(skew_s)
        self.run = SimulatedRun(self.clock)
        self.counts: dict[str, int] = {}
        self.lost: set[int] = set()
        self.stopped: set[int] = set()
        self.ended: dict[int, float] = {}
        for module in (limiting, roll_call, watching):
            monkeypatch.setattr(module, "time", self.clock)
        monkeypatch.setattr(roll_call, "threading", SimpleNamespace(Thread=SimulatedThread))
        monkeypatch.setattr(watching, "print_stacks", lambda message: None)
        monkeypatch.setattr(watching.os, "_exit", end)
        launch = tiny_spec(folder).launch.model_copy(update={"stall_timeout_s": limit_s})
        self.watches = []
        for rank in range(N_RANKS):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", str(N_RANKS))
            watch = Watch(self.run, launch, StopRequest())
            watch.joined = DistributedContext(
                rank, N_RANKS, torch.device("cpu"), store=SimulatedStore(self, rank)
            )
            self.watches.append(watch)
        self.next_checks = {rank: self.clock.now + 0.1 * rank for rank in range(N_RANKS)}

    def go_on(self, seconds: float) -> None:
        """Let all ranks check until some time has passed."""
        until = self.clock.now + seconds
        while self.next_checks:
            rank = min(self.next_checks, key=self.next_checks.__getitem__)
            if self.next_checks[rank] > until:
                break
            self.clock.now = self.next_checks[rank]
            self.run.rank = rank
            if rank in self.stopped:
                del self.next_checks[rank]
                continue
            try:
                self.watches[rank]._check()
            except Ended:
                self.ended[rank] = self.clock.now
                del self.next_checks[rank]
            else:
                self.next_checks[rank] = self.clock.now + self.watches[rank]._limits.wait_s
        self.clock.now = until


@pytest.mark.parametrize("skew_s", [0.0, -1000.0, 1000.0])
@pytest.mark.parametrize("limit_s", LIMITS_S)
@pytest.mark.parametrize(
    ("lost", "stopped"),
    [
        pytest.param({1}, set(), id="cut"),
        pytest.param({0}, set(), id="first-cut"),
        pytest.param({2, 3}, set(), id="half-cut"),
        pytest.param({1}, {1}, id="stopped"),
        pytest.param({0, 1}, {0, 1}, id="first-host-stopped"),
        pytest.param(set(), set(), id="none"),
    ],
)
def test_a_lost_peer_is_named_within_the_limit(
    monkeypatch, tmp_path, lost, stopped, limit_s, skew_s
):
    """Not before it, after steps that take almost as long. All ranks end, also those cut off."""
    simulation = Simulation(monkeypatch, limit_s, tmp_path, skew_s)
    slack_s = 1.0 if skew_s else 0.0  # between two checks
    for _ in range(N_STEPS):
        simulation.go_on(limit_s - 0.25 - slack_s)
        assert not simulation.ended
        simulation.run.write()
    simulation.lost = lost
    simulation.stopped = stopped
    fell_silent = simulation.clock.now
    simulation.go_on(limit_s - RECORDING_S + slack_s)
    assert set(simulation.ended) == set(range(N_RANKS)) - stopped
    everyone = set(range(N_RANKS))
    at_the_store = lost if 0 in lost else everyone - lost
    for rank, (recorded, reason, message) in simulation.run.failures.items():
        assert recorded - fell_silent >= limit_s - 0.25 - slack_s
        assert reason == ("lost" if lost else "timeout")
        assert f"launch.stall_timeout_s = {limit_s:g} s" in message
        silent = everyone - (at_the_store if rank in at_the_store else {rank})
        assert {other for other in everyone if f"rank {other}" in message} == silent


@pytest.mark.parametrize("limit_s", LIMITS_S)
def test_ranks_end_without_their_file_server(monkeypatch, tmp_path, limit_s):
    simulation = Simulation(monkeypatch, limit_s, tmp_path)
    simulation.go_on(limit_s / 2)
    simulation.run.is_away = True
    simulation.go_on(limit_s / 2)
    assert set(simulation.ended) == set(range(N_RANKS)) and not simulation.run.failures
