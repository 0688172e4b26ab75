"""If these failed, a cancelled job would come back, or a lost peer would cost the checkpoint."""

import itertools
import os
import signal
import time

import pytest
import torch.distributed as dist
from tiny_run import tiny_spec

from harness.errors import ExitCode
from harness.results.run import Run
from harness.training import watch as watching
from harness.training.main import _reason, _record_failure
from harness.training.signals import EXIT_CODES, StopRequest
from harness.training.watch import Watch

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] "
LOST = [
    RuntimeError(
        f"{GLOO}Read error [127.0.0.1]:5855: Connection reset by peer. This is "
        "typically caused by a remote worker hanging."
    ),
    RuntimeError(f"{GLOO}Connection closed by peer [127.0.0.1]:40582."),
    RuntimeError(f"{GLOO}Timed out waiting 8000ms for recv operation to complete"),
    RuntimeError(f"{GLOO}Timed out waiting 8000ms for send operation to complete"),
    RuntimeError(f"{GLOO}Write error [10.0.0.2]:5855: Broken pipe"),
    dist.DistNetworkError("The client socket has timed out after 60000ms"),
    dist.DistStoreError("Timed out after 61 seconds waiting for clients. 1/2 clients joined."),
    dist.DistBackendError("NCCL error: ncclRemoteError: A call failed possibly due to a peer"),
]
N_CHECKS = 200  # of a watch, more than any test needs
OWN = [
    RuntimeError("[enforce fail at gloo/transport/tcp/pair.cc:454] length <= nbytes. 8 vs 4"),
    RuntimeError("the database timed out"),
    ConnectionResetError("Connection reset by peer"),
    dist.DistBackendError("NCCL error: ncclInvalidUsage: Duplicate GPU detected"),
]


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.create(tiny_spec(tmp_path))
    with run.claim() as claim:
        claim.run.mark_running()
        yield claim.run


@pytest.mark.parametrize("error", LOST, ids=str)
def test_a_broken_connection_is_a_lost_peer(error):
    assert _reason(error) == "lost"


@pytest.mark.parametrize("error", OWN, ids=str)
def test_an_error_of_this_rank_is_no_lost_peer(error):
    assert _reason(error) == "error"


@pytest.mark.parametrize("codes", list(itertools.permutations(set(EXIT_CODES.values()))))
def test_a_cancelled_run_does_not_come_back(codes):
    """Also if only one of many ranks was asked to end, and before or after the request to save."""
    stop = StopRequest()
    for code in codes:
        stop.request(code)
    others = [StopRequest(ExitCode.REQUEUE) for _ in range(1000)]
    for rank in (stop, others[0]):
        rank.acknowledge(stop.vote + sum(other.vote for other in others))
        assert rank.exit_code == ExitCode.INTERRUPTED
    others[0].acknowledge(sum(other.vote for other in others))
    assert others[0].exit_code == ExitCode.REQUEUE
    others[0].acknowledge(0)
    assert others[0].acknowledged == ExitCode.DONE


@pytest.mark.parametrize("number", EXIT_CODES, ids=lambda number: number.name)
def test_each_signal_asks_to_end(number):
    stop = StopRequest.on_signals()
    try:
        os.kill(os.getpid(), number)
        while not stop.requested:
            time.sleep(0.01)
    finally:
        stop.restore_handlers()
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert stop.exit_code == EXIT_CODES[number]


def test_a_rank_that_lost_a_peer_keeps_the_recorded_cause(run):
    run.finish("failed", "error", "ValueError: of the peer")
    _record_failure(run, LOST[0], StopRequest())
    assert run.status.message == "ValueError: of the peer"


def test_a_rank_that_lost_a_peer_records_it(run, monkeypatch):
    monkeypatch.setattr("harness.training.main.PEER_RECORD_S", 0.2)
    _record_failure(run, LOST[0], StopRequest())
    assert (run.status.status, run.status.reason) == ("failed", "lost")
    assert run.status.message.endswith("[127.0.0.1]:5855: Connection reset by peer")


class Ended(BaseException):
    """The process would have ended."""


@pytest.fixture
def watched(run, monkeypatch):
    """Return a function that makes the watch of a rank, which raises `Ended` in place of ending."""
    monkeypatch.setattr(watching, "ANSWER_S", 0.3)
    monkeypatch.setattr(watching, "print_stacks", lambda message: None)

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(watching.os, "_exit", end)

    def make(rank=0, world_size=1, stop=None, **limits):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world_size))
        launch = run.spec.launch.model_copy(update=limits)
        return Watch(run, launch, stop or StopRequest())

    return make


def check_until_ended(watch) -> int:
    with pytest.raises(Ended) as end:
        for _ in range(N_CHECKS):
            watch._check()
            time.sleep(0.02)
    return end.value.args[0]


@pytest.mark.parametrize(("world_size", "reason"), [(1, "timeout"), (2, "lost")])
def test_a_rank_without_progress_ends_itself(watched, run, world_size, reason):
    watch = watched(world_size=world_size, stall_timeout_s=0.2)
    assert check_until_ended(watch) == ExitCode.SOME_FAILED
    assert (run.status.status, run.status.reason) == ("failed", reason)
    assert "launch.stall_timeout_s = 0.2 s" in run.status.message
    assert ("no answer from rank 1" in run.status.message) == (world_size == 2)


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


def test_a_rank_whose_run_was_taken_over_records_nothing(watched, run, monkeypatch):
    watch = watched()
    run.sibling("run").claims.joinpath(f"{run.claim_number}.json").unlink()
    before = (run.path / "status.json").read_bytes()
    watch._beaten -= watching.HEARTBEAT_S
    assert check_until_ended(watch) == ExitCode.CLAIM_LOST
    monkeypatch.setattr("harness.training.main.PEER_RECORD_S", 0.0)
    for error in (LOST[0], ValueError("own")):
        _record_failure(run, error, StopRequest())
    assert (run.path / "status.json").read_bytes() == before
