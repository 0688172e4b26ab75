"""What a run runs on: versions, machine, threads and commit, for env.json."""

import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import psutil
import torch
import torch.distributed as dist

import harness
from harness.distributed.process_group import DistributedContext
from harness.results.records import Environment, RunSpec


def describe(spec: RunSpec, ranks: DistributedContext) -> Environment:
    """Return the content of env.json."""
    cuda = ranks.device.type == "cuda"
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    return Environment(
        version=harness.__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=np.__version__,
        platform=platform.platform(),
        host=platform.node(),
        cpu=_cpu_name(),
        cores=psutil.cpu_count(logical=False) or os.cpu_count(),
        memory_bytes=psutil.virtual_memory().total,
        gpu=torch.cuda.get_device_name(ranks.device) if cuda else None,
        cuda=torch.version.cuda if cuda else None,
        threads=torch.get_num_threads(),
        world_size=ranks.world_size,
        backend=dist.get_backend(),
        precision=spec.train.precision,
        compile=spec.train.compile,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        git_commit=commit or None,
        git_dirty=bool(changes),
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    try:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
