"""Count the cores that this process may use."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

CGROUP = Path("/proc/self/cgroup")
MOUNTS = Path("/proc/self/mountinfo")


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
    try:
        folders = quota_folders(CGROUP.read_text(), MOUNTS.read_text())
    except OSError:  # not Linux, or /proc is hidden
        return None
    return lowest_quota(folders)


def quota_folders(cgroup: str, mountinfo: str) -> list[Path]:
    """Return the folders of the control groups that limit this process's CPU time.

    `cgroup` and `mountinfo` are the contents of the files of `/proc/self`. The group's own folder
    comes first, then those of its parents up to the mount point.

    Source: cgroups(7), proc_pid_mountinfo(5).
    """
    groups = {}
    for line in cgroup.splitlines():
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = group
    folders: list[Path] = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        root, mount_point = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if kind == "cgroup2":
            controller = ""
        elif kind == "cgroup" and "cpu" in options.split(","):
            controller = "cpu"
        else:
            continue
        if controller in groups:
            own_group = PurePosixPath(groups[controller])
            folders += _folders(own_group, PurePosixPath(root), Path(mount_point))
    return folders


def _folders(group: PurePosixPath, root: PurePosixPath, mount_point: Path) -> Iterator[Path]:
    """Yield the folder of a group and of its parents; `root` is the group at the mount point."""
    # In a container the mount point may be the group itself, whose path is that of the host.
    inside = group.relative_to(root) if group.is_relative_to(root) else PurePosixPath()
    yield mount_point / inside
    for parent in inside.parents:
        yield mount_point / parent


def lowest_quota(folders: Iterable[Path]) -> float | None:
    """Return the lowest CPU quota of these control groups, in cores; None without a quota."""
    quotas = []
    for folder in folders:
        words = _words(folder / "cpu.max")  # version 2: quota or `max`, and period
        if not words:
            words = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(words) == 2 and words[0].isdecimal() and int(words[1]) > 0:  # version 1: -1 is none
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
