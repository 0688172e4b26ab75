"""Start a run on all nodes of a job: srun starts `_node` on each."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from harness.errors import ExitCode
from harness.launch.parent import parent_death_signal
from harness.launch.slots import Slot
from harness.launch.slurm import commands
from harness.launch.slurm.commands import CommandError
from harness.launch.slurm.job import Job, free_port
from harness.launch.stop import Stop
from harness.results import timing
from harness.results.files import absolute
from harness.results.run import Run

POLL_INTERVAL_S = 0.1
STATUS_INTERVAL_S = 5.0  # between two looks at the run's status
END_GRACE_S = 60.0  # for srun to end after the run has; a node may be unreachable
SAVED = (None, ExitCode.INTERRUPTED, ExitCode.REQUEUE)  # exit codes of srun, None: it was killed
STOP_GRACE_S = 90.0  # for srun to end after the request; the agents kill their ranks before that


def start(run: Run, job: Job, slot: Slot | None = None, stop: Stop | None = None) -> None:
    """Run one entry on all nodes of this process's job until it ends.

    The agent of the first node records how it ended; what keeps that agent from doing so is
    recorded here.

    Raises:
        ClaimLost: another process has taken the run over.
    """
    stop = stop or Stop()
    slot = slot or Slot()
    host = _first_host(job)
    with stop.launching():
        code = _wait(_start_srun(run, job, slot, host), run, job, stop)
    status = run.status.status
    # srun ends the other nodes after the agent of one, and they cannot know why.
    was_node_lost = status == "interrupted" and stop.requested is None and code not in SAVED
    if status not in ("pending", "running") and not was_node_lost:
        return
    run.check_claim()
    if stop.requested is not None:
        run.finish("interrupted", "killed", f"stopped by {stop.requested.name}")
    elif was_node_lost:
        run.finish("failed", "lost", f"the agent of a node ended: exit code {code} of srun")
    else:
        outcome = "did not end" if code is None else f"ended with exit code {code}"
        run.finish("failed", "lost", f"srun {outcome}, and no node recorded a result")


def command(run: Run, job: Job, host: str, port: int) -> list[str]:
    """Return the command that starts the agent of each node; they meet at `host`:`port`."""
    assert run.claim_number is not None
    cpus = [] if job.cpus_per_task is None else [f"--cpus-per-task={job.cpus_per_task}"]
    return [
        "srun",
        f"--nodes={job.n_nodes}",
        f"--ntasks={job.n_nodes}",
        "--ntasks-per-node=1",
        *cpus,  # srun ignores that of the job
        "--kill-on-bad-exit=1",
        "--export=ALL",
        sys.executable,
        "-P",
        "-m",
        "harness",
        "_node",
        str(absolute(run.path)),
        f"--claim={run.claim_number}",
        f"--nodes={job.n_nodes}",
        f"--endpoint={host}:{port}",
        f"--id={job.attempt}.{run.claim_number}.{run.run_id}",
    ]


def _first_host(job: Job) -> str:
    """Return the host of node 0, on which the batch script runs, as the other nodes know it."""
    own = os.environ.get("SLURMD_NODENAME")
    if own is not None:
        with contextlib.suppress(CommandError):
            return commands.node_address(own)
        return own
    return commands.hosts(job.nodes)[0]


def _start_srun(run: Run, job: Job, slot: Slot, host: str) -> "subprocess.Popen[bytes]":
    # Of an element that is killed, srun may wait forever for a step that is gone.
    return subprocess.Popen(
        command(run, job, host, free_port(job)),
        preexec_fn=parent_death_signal(signal.SIGKILL),  # noqa: PLW1509 - takes no lock
        stdin=subprocess.DEVNULL,
        env=os.environ | timing.variable(slot.timing),
        cwd=Path.cwd(),
        start_new_session=True,
    )


def _wait(process: "subprocess.Popen[bytes]", run: Run, job: Job, stop: Stop) -> int | None:
    """Wait for srun and return its exit code; None if it did not end and was killed.

    A request to stop goes to the agents. srun itself would end them at once.
    """
    forwarded: signal.Signals | None = None
    end_at: float | None = None
    look_at = time.monotonic() + STATUS_INTERVAL_S
    while process.poll() is None:
        time.sleep(POLL_INTERVAL_S)
        now = time.monotonic()
        requested = stop.requested
        if requested is not None and requested != forwarded:
            forwarded = requested
            end_at = now + STOP_GRACE_S
            with contextlib.suppress(CommandError):  # Slurm has sent SIGTERM to all by itself
                commands.scancel([str(job.number)], requested.name.removeprefix("SIG"))
        if now >= look_at:
            look_at = now + STATUS_INTERVAL_S
            if end_at is None and run.status.status not in ("pending", "running", "interrupted"):
                end_at = now + END_GRACE_S
        if end_at is not None and now >= end_at:
            process.send_signal(signal.SIGTERM)  # ends the step
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
            return None
    return process.returncode
