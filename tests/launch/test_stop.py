"""Without these, a cancelled run could go on, or a cancelled job come back."""

import os
import signal
import threading

import pytest

from harness.launch.stop import IN_JOB, Stop

SAVE = (signal.SIGUSR1, signal.SIGUSR2)
CANCEL = (signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize(
    "order", [(signal.SIGUSR1, signal.SIGTERM), (signal.SIGTERM, signal.SIGUSR1)]
)
def test_a_cancelled_run_is_not_to_come_back(order):
    stop = Stop()
    for number in order:
        stop.request(number)
    assert stop.requested == signal.SIGTERM


@pytest.mark.parametrize("number", [*SAVE, *CANCEL])
def test_a_kill_is_stronger_than_any_request(number):
    stop = Stop()
    stop.request(signal.SIGKILL)
    stop.request(number)
    assert stop.requested == signal.SIGKILL


@pytest.mark.parametrize("number", IN_JOB)
def test_every_signal_of_a_job_requests_a_stop(number):
    stop = Stop()
    with stop.on_signals(IN_JOB, interrupts=False):
        os.kill(os.getpid(), number)
    unknown = (signal.SIGHUP, signal.SIGQUIT)
    assert stop.requested == (signal.SIGTERM if number in unknown else number)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_ctrl_c_twice_kills_and_before_a_launch_interrupts():
    stop = Stop()
    with stop.on_signals():
        with stop.launching():
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.requested == signal.SIGINT
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested == signal.SIGKILL
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_during_a_request_is_not_lost_and_blocks_nothing():
    """The handler runs in the thread that it interrupts, in the middle of a request."""
    stop = Stop()
    with stop.on_signals(IN_JOB, interrupts=False):
        sender = threading.Thread(
            target=lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(200)]
        )
        sender.start()
        while sender.is_alive():
            stop.request(signal.SIGUSR1)
            assert stop.requested is not None
        sender.join()
    assert stop.requested == signal.SIGTERM
