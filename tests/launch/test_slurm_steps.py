"""Without this, an element that is killed would leave its srun behind on the node."""

import contextlib
import subprocess
import sys

import psutil
import pytest

HANG_S = 30
PROGRAM = """
import os, signal
from harness.launch.slots import Slot
from harness.launch.slurm import steps
steps.command = lambda *_: ["sleep", "600"]
steps.free_port = lambda job: 0
print(steps._start_srun(None, None, Slot(), "n1").pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_srun_ends_with_an_element_that_is_killed():
    killed = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    srun = int(killed.stdout.readline())
    killed.wait()
    killed.stdout.close()
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(srun)
        gone, _ = psutil.wait_procs([process], HANG_S)
        process.kill()
        assert gone
