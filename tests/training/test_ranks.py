"""If these failed, a cancelled job would come back, or a lost peer would cost the checkpoint."""

import itertools
import os
import signal
import time

import pytest
import torch.distributed as dist

from harness.distributed.process_group import BACKENDS, device_of_rank
from harness.errors import ExitCode
from harness.training.main import _reason, _record_failure
from harness.training.signals import EXIT_CODES, StopRequest


@pytest.mark.parametrize(
    ("device", "local_rank", "expected", "backend"),
    [
        ("cpu", None, "cpu", "gloo"),
        ("cpu", "3", "cpu", "gloo"),
        ("cuda", "0", "cuda:0", "cpu:gloo,cuda:nccl"),
        ("cuda", "3", "cuda:3", "cpu:gloo,cuda:nccl"),
    ],
)
def test_each_rank_has_a_device_and_its_backend(device, local_rank, expected, backend):
    """Two ranks on one GPU, or tensors on the CPU without gloo, would hang a run."""
    environment = {} if local_rank is None else {"LOCAL_RANK": local_rank}
    own = device_of_rank(device, environment)
    assert str(own) == expected and BACKENDS[own.type] == backend


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
OWN = [
    RuntimeError("[enforce fail at gloo/transport/tcp/pair.cc:454] length <= nbytes. 8 vs 4"),
    RuntimeError("the database timed out"),
    ConnectionResetError("Connection reset by peer"),
    dist.DistBackendError("NCCL error: ncclInvalidUsage: Duplicate GPU detected"),
]


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


def test_a_rank_that_lost_a_peer_keeps_the_recorded_cause(running):
    running.finish("failed", "error", "ValueError: of the peer")
    _record_failure(running, LOST[0], StopRequest())
    assert running.status.message == "ValueError: of the peer"


def test_a_rank_that_lost_a_peer_records_it(running, monkeypatch):
    monkeypatch.setattr("harness.training.main.PEER_RECORD_S", 0.2)
    _record_failure(running, LOST[0], StopRequest())
    assert (running.status.status, running.status.reason) == ("failed", "lost")
    assert running.status.message.endswith("[127.0.0.1]:5855: Connection reset by peer")
