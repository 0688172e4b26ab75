"""Without this, an element that is killed would leave its srun behind on the node."""

import subprocess
import sys

import psutil
import pytest

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
    killed = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    assert killed.returncode == -9
    try:
        srun = psutil.Process(int(killed.stdout))
        has_ended = srun.status() == psutil.STATUS_ZOMBIE or bool(psutil.wait_procs([srun], 60)[0])
    except psutil.NoSuchProcess:
        return
    assert has_ended
