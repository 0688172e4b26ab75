"""Software versions, machine, threads and commit of a run, for env.json."""

import os
import platform
from pathlib import Path

import numpy as np
import psutil
import torch
import torch.distributed as dist

import harness
from harness.distributed.process_group import DistributedContext
from harness.provenance import git
from harness.results.records import Environment, RunSpec


def describe(
    spec: RunSpec, context: DistributedContext, earlier: Environment | None = None
) -> Environment:
    """Return the content of env.json; `earlier` is that of the attempt that the run resumes."""
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


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
