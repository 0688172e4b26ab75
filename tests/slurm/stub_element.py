"""Take the place of Python in a job: `_element` whose trainer only waits, for tests of scale."""

import os
import sys
import time
from pathlib import Path

import planted_runs

from harness.launch.slurm.element import run_element
from harness.launch.slurm.job import this_job
from harness.launch.stop import IN_JOB, Stop
from harness.results.records import LaunchSpec
from harness.results.run import Run

TRAINING_S = 0.05
TRAINED = "trained.txt"  # in the folder of the results: a line for each training


def train(run: Run, launch: LaunchSpec) -> None:
    """Mark the run as running, wait, record that it was trained, and end it with results."""
    run.mark_running()
    time.sleep(TRAINING_S)
    with open(run.path.parent.parent / TRAINED, "ab", buffering=0) as file:
        file.write(f"{run.run_id}\n".encode())
    planted_runs.finish(run, loss=2.0)


if __name__ == "__main__":
    stop = Stop()
    with stop.on_signals(IN_JOB, interrupts=False):
        code = run_element(Path(sys.argv[-1]), this_job(os.environ), stop, train)
    sys.exit(code)
