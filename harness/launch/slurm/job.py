"""The Slurm job in which this process runs, by the environment that Slurm has set."""

import contextlib
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from harness.errors import UserError
from harness.launch.slurm import commands
from harness.launch.slurm.commands import CommandError
from harness.results.owner import job_name

# Below those that systems give to outgoing connections.
FIRST_PORT = 20_000
N_PORTS = 10_000
PORT_STRIDE = 101  # prime to N_PORTS: successive elements look at ports far from each other


@dataclass(frozen=True)
class Job:
    """A job, or an element of an array job, and this start of it."""

    name: str  # as `job_name` returns it
    number: int  # of the job itself; each element of an array has one of its own
    index: int  # of the element; 0 without an array
    restarts: int
    n_nodes: int
    nodes: str  # as Slurm abbreviates them: `n[1-2]`
    cpus_per_task: int | None
    cpus_on_node: int | None  # of this node, those of the job

    @property
    def attempt(self) -> str:
        """A name of this start of the job, which no other start has."""
        return f"{self.name}.{self.restarts}"


def this_job(environment: Mapping[str, str] = os.environ) -> Job:
    """Return the job of this process.

    Raises:
        UserError: it runs outside of a job.
    """
    number = environment.get("SLURM_JOB_ID")
    name = job_name(environment)
    if number is None or name is None:
        raise UserError("SLURM_JOB_ID is not set: this command runs in a job that `run` submits")
    return Job(
        name=name,
        number=int(number),
        index=int(environment.get("SLURM_ARRAY_TASK_ID", "0")),
        restarts=int(environment.get("SLURM_RESTART_COUNT", "0")),
        n_nodes=int(environment.get("SLURM_JOB_NUM_NODES", "1")),
        nodes=environment.get("SLURM_JOB_NODELIST", ""),
        cpus_per_task=_number(environment.get("SLURM_CPUS_PER_TASK")),
        cpus_on_node=_number(environment.get("SLURM_CPUS_ON_NODE")),
    )


def has_whole_node(job: Job, node: str | None) -> bool:
    """Return whether no other job can run on this node, `node` in Slurm's names, next to `job`."""
    n_cpus = os.cpu_count() or 1
    shares_cores = False
    with contextlib.suppress(CommandError):
        if node is not None:
            n_cpus = commands.n_cpus(node)  # Slurm may count cores where the system counts threads
        shares_cores = commands.shares_cores(job.number)
    return job.cpus_on_node is not None and job.cpus_on_node >= n_cpus and not shares_cores


def free_port(job: Job) -> int:
    """Return a port of this host that is free, another one for each job.

    Two jobs on one host must not meet on one port: the end of one would end the other. The search
    starts at a port that the job's number gives, so that jobs that look at once find others.

    Raises:
        OSError: no port is free.
    """
    for n_tried in range(N_PORTS):
        port = FIRST_PORT + (PORT_STRIDE * job.number + n_tried) % N_PORTS
        with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as s:
            try:
                s.bind(("", port))
            except OSError:
                continue
        return port
    raise OSError(f"no port from {FIRST_PORT} to {FIRST_PORT + N_PORTS - 1} is free")


def _number(text: str | None) -> int | None:
    match = re.match(r"\d+", text or "")
    return int(match[0]) if match else None
