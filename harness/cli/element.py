"""`_element`: train the runs of one element of an array job. The batch script starts it."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer


def element(
    submission: Annotated[
        Path, typer.Argument(metavar="SUBMISSION", help="The file of the submission.")
    ],
) -> None:
    """Train the runs of this job's element of a submission.

    The exit code is 0 if nothing is left to do, 1 if a run failed, 75 if the element was put back
    into the queue, and 130 if it was cancelled.
    """
    from harness.launch.stop import IN_JOB, Stop

    stop = Stop()
    with stop.on_signals(IN_JOB, interrupts=False):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, IN_JOB)  # `harness.__main__` has blocked them
        from harness.launch.slurm.element import run_element
        from harness.launch.slurm.job import this_job

        code = run_element(submission, this_job(), stop)
    sys.exit(code)
