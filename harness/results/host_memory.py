"""Read how much memory this machine, its control groups and this process may use."""

import resource
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.results.control_groups import own_folders, words

VMSTAT = Path("/proc/vmstat")
UNLIMITED_BYTES = 1 << 60  # version 1 of control groups states "no limit" as a number above
# Files of a control group, of versions 2 and 1: the limit, and what is used.
LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
OOM_KILLS = ("memory.events", "memory.oom_control")


@dataclass(frozen=True)
class Capacity:
    """Memory that a run may use: `total_bytes` of `name`, of which `free_bytes` were free.

    `is_of_each_rank`: each rank has as much, else all ranks of the machine share it.
    """

    name: str
    total_bytes: int
    free_bytes: int | None = None
    is_of_each_rank: bool = False


def host_capacities() -> list[Capacity]:
    """Return the main memory, and the limits of control group and process, if there are any."""
    memory = psutil.virtual_memory()
    capacities = [Capacity("the machine", memory.total, memory.available)]
    group = lowest_limit(own_folders("memory"))
    if group is not None:
        capacities.append(group)
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if 0 <= limit < UNLIMITED_BYTES:
        name = "the address space of a process (ulimit -v)"
        capacities.append(Capacity(name, limit, is_of_each_rank=True))
    return capacities


def lowest_limit(folders: Iterable[Path]) -> Capacity | None:
    """Return the lowest memory limit of these control groups; None without a limit."""
    lowest = None
    for folder in folders:
        for limit_file, usage_file in LIMITS:
            limit = _number(folder / limit_file)
            if limit is None or limit >= UNLIMITED_BYTES:
                continue
            usage = _number(folder / usage_file)
            free = None if usage is None else max(0, limit - usage)
            if lowest is None or limit < lowest.total_bytes:
                lowest = Capacity(f"the control group {folder}", limit, free)
    return lowest


def n_oom_kills() -> int | None:
    """Return how many processes the kernel has ended for lack of memory; None if it is unknown.

    It counts those of this process's control group, or of the whole machine without one.
    """
    for folder in own_folders("memory")[:1]:
        for name in OOM_KILLS:
            count = counter(folder / name)
            if count is not None:
                return count
    return counter(VMSTAT)


def counter(path: Path) -> int | None:
    """Return the value of the line `oom_kill N` of a file; None if there is none."""
    found = words(path)
    if "oom_kill" not in found[::2]:
        return None
    return int(found[2 * found[::2].index("oom_kill") + 1])


def _number(path: Path) -> int | None:
    found = words(path)
    return int(found[0]) if found and found[0].isdecimal() else None
