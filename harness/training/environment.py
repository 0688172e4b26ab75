"""Software versions, machine, threads and commit of a run, for env.json."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import torch
import torch.distributed as dist

import harness
from harness.distributed.process_group import DistributedContext
from harness.provenance import git
from harness.results.owner import this_process
from harness.results.records import Environment, RunSpec
from harness.results.timing import timing_of_process


def describe(
    spec: RunSpec,
    context: DistributedContext,
    hosts: Sequence[str],
    earlier: Environment | None = None,
) -> Environment:
    """Return the content of env.json.

    `hosts` has the host of each rank. `earlier` is the environment of the attempt that the run
    resumes.
    """
    cuda = context.device.type == "cuda"
    environment = Environment(
        version=harness.__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=np.__version__,
        platform=platform.platform(),
        host=platform.node(),
        cpu=_cpu_name(),
        cores=psutil.cpu_count(logical=False) or os.cpu_count(),
        memory_bytes=psutil.virtual_memory().total,
        gpu=torch.cuda.get_device_name(context.device) if cuda else None,
        cuda=torch.version.cuda if cuda else None,
        threads=torch.get_num_threads(),
        world_size=context.world_size,
        backend=dist.get_backend(),
        precision=spec.train.precision,
        compile=spec.train.compile,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        usable_cores=_usable_cores(),
        hosts=list(dict.fromkeys(hosts)),
        n_nodes=_n_nodes(context.world_size),
        devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        pinned_cores=_pinned_cores(),
        timing=timing_of_process(),
        job=this_process().job,
        git_commit=git.commit(),
        git_dirty=git.has_changes(),
    )
    if earlier is not None:
        environment.earlier_machines.extend(earlier.earlier_machines)
        if earlier.machine != environment.machine:
            environment.earlier_machines.append(earlier.machine)
    return environment


def _usable_cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _n_nodes(world_size: int) -> int:
    """Return the number of torchrun's agents, one on each node."""
    return world_size // int(os.environ.get("LOCAL_WORLD_SIZE", world_size))


def _pinned_cores() -> list[int]:
    """Return the cores of this process, none if it may use all of the machine."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    return cores if len(cores) < (os.cpu_count() or 1) else []


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
