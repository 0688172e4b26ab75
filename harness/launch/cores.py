"""Count the cores that this process may use."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.results.control_groups import own_folders, words


def cores() -> int:
    """Return the number of cores that this process may use, at least 1.

    The minimum of its affinity, of the CPUs per task of its Slurm job, and of the CPU quota of its
    control groups, rounded down.
    """
    limits = [affinity_cores(), slurm_cores(os.environ), _quota_cores()]
    return max(1, int(min(limit for limit in limits if limit is not None)))


def affinity_cores() -> int:
    """Return the number of cores on which the system may schedule this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def slurm_cores(environment: Mapping[str, str]) -> int | None:
    """Return the CPUs per task of the Slurm job of `environment`; None outside of a job."""
    value = environment.get("SLURM_CPUS_PER_TASK", "")
    if "SLURM_JOB_ID" not in environment or not value.isdecimal():
        return None
    return int(value)


def _quota_cores() -> float | None:
    return lowest_quota(own_folders("cpu"))


def lowest_quota(folders: Iterable[Path]) -> float | None:
    """Return the lowest CPU quota of these control groups, in cores; None without a quota."""
    quotas = []
    for folder in folders:
        quota = words(folder / "cpu.max")  # version 2: quota or `max`, and period
        if not quota:
            quota = words(folder / "cpu.cfs_quota_us") + words(folder / "cpu.cfs_period_us")
        if len(quota) == 2 and quota[0].isdecimal() and int(quota[1]) > 0:  # version 1: -1 is none
            quotas.append(int(quota[0]) / int(quota[1]))
    return min(quotas, default=None)
