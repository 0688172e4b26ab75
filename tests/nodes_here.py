"""A stand-in for srun: nodes that are processes of this machine, and end as srun ends them."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.cli.app import main
from harness.launch import fork_server
from harness.launch.slurm import steps
from harness.launch.slurm.job import Job, free_port
from harness.results.run import Run

HOST = "127.0.0.1"
N_NODES = 2


def new_job(number: int) -> Job:
    """Return a job of two nodes."""
    return Job(
        name=str(number),
        number=number,
        index=0,
        restarts=0,
        n_nodes=N_NODES,
        nodes="",
        cpus_per_task=None,
        cpus_on_node=None,
    )


class Srun:
    """The process of srun, as `steps` uses it; `agents` are the processes of the nodes."""

    def __init__(self, run: Run, job: Job, folder: Path, environment: Mapping[str, str]) -> None:
        command = steps.command(run, job, HOST, free_port(job))
        arguments = command[command.index("harness") + 1 :]
        self._pids = folder / run.run_id
        self._pids.mkdir()
        # Forked from a process that has imported torch: `python -m harness` would load it again.
        fork_server.start_fork_server()
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_run_nodes, args=(arguments, dict(environment), self._pids)
        )
        self._process.start()

    @property
    def agents(self) -> list[int]:
        """The process id of each node's agent."""
        return [int((self._pids / f"{index}.pid").read_text()) for index in range(N_NODES)]

    @property
    def returncode(self) -> int | None:
        """The exit code; None while a node runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("srun", timeout or 0)
        return self.returncode

    def kill(self) -> None:
        self._process.kill()


def _run_nodes(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
    """Start an agent for each node; after a bad exit code, end the others with SIGTERM."""
    os.environ.update(environment)
    cores = sorted(os.sched_getaffinity(0))
    n_threads = max(1, len(cores) // N_NODES)  # as each rank has on one host
    signal.pthread_sigmask(signal.SIG_UNBLOCK, fork_server.BLOCKED)
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    running = []
    for index in range(N_NODES):
        pid = os.fork()
        if pid == 0:
            os.sched_setaffinity(0, cores[index * n_threads :][:n_threads] or cores)
            _run_agent([*arguments, f"--index={index}"])
        (folder / f"{index}.pid").write_text(str(pid))
        running.append(pid)
    worst = 0
    while running:
        pid, status = os.wait()
        running.remove(pid)
        code = os.waitstatus_to_exitcode(status)
        worst = max(worst, code if code >= 0 else 128 - code)
        if code:
            for other in running:
                os.kill(other, signal.SIGTERM)
    sys.exit(worst)


def _run_agent(arguments: Sequence[str]) -> None:
    try:
        main(list(arguments))
    finally:
        os._exit(99)  # `_node` has ended by an exit code of its own
