"""Without these, a command with a user's variant would end, or repeat a signal, after Ctrl-Z."""

import os
import signal
import subprocess
import sys
import time

import pytest

from harness.cli.isolation import POLL_S

COMMAND = """
import signal, sys
from harness.cli import isolation

n_signals = 0

def count(*_):
    global n_signals
    n_signals += 1
    print(n_signals, flush=True)

def command():
    signal.signal(signal.SIGUSR1, count)
    isolation.isolate()
    print("started", flush=True)
    for line in sys.stdin:
        print(line, end="", flush=True)
    sys.exit(10 + n_signals)

isolation.allow()
isolation.run_to_end(command)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="commands run in no child")
@pytest.mark.parametrize("stops_all", [True, False], ids=["both", "the watch"])
@pytest.mark.parametrize("n_signals", range(2))
def test_a_command_goes_on_after_a_stop(stops_all, n_signals):
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin and process.stdout
    assert process.stdout.readline() == "started\n"
    for number in range(n_signals):
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == f"{number + 1}\n"
    for _ in range(3):
        send = os.killpg if stops_all else os.kill
        send(process.pid, signal.SIGSTOP)
        time.sleep(2 * POLL_S)
        send(process.pid, signal.SIGCONT)
        time.sleep(POLL_S)
    process.stdin.write("goes on\n")
    out, err = process.communicate()
    assert (process.returncode, out, err) == (10 + n_signals, "goes on\n", "")
