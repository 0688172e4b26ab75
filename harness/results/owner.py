"""Which process owns a claim or a running run, and whether it lives."""

import os
import platform
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import psutil

from harness.results.records import Owner

SILENCE_S = 60.0  # without a heartbeat, after which an owner counts as dead
START_TOLERANCE_S = 1.0  # between two readings of the start of one process

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PID_NAMESPACE = Path("/proc/self/ns/pid")


def this_process() -> Owner:
    """Return this process as an owner, with its Slurm job if it has one."""
    job = job_name(os.environ)
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0")) if job is not None else 0
    return _process(os.getpid()).model_copy(update={"job": job, "job_restarts": restarts})


def job_name(environment: Mapping[str, str]) -> str | None:
    """Return the Slurm job of `environment` as scancel takes it: `123`, or `123_4` in an array."""
    array_job = environment.get("SLURM_ARRAY_JOB_ID")
    if array_job is not None:
        return f"{array_job}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID")


@cache  # by the process id: a forked child is another owner
def _process(pid: int) -> Owner:
    return Owner(
        host=platform.node(),
        boot_id=_boot_id(),
        pid_namespace=_pid_namespace(),
        pid=pid,
        pid_started=psutil.Process(pid).create_time(),
    )


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:  # not Linux: the host name replaces it
        return platform.node()


def _pid_namespace() -> str | None:
    try:
        return os.readlink(PID_NAMESPACE)
    except OSError:
        return None


def is_alive(owner: Owner | None, observer: Owner, silence_s: Callable[[], float | None]) -> bool:
    """Return whether an owner lives, as far as the `observer` can know.

    A process of the same boot and the same namespace of process ids is looked up. Of any other, and
    of None, an owner that is not known, `silence_s` decides: the seconds since its last heartbeat,
    None if that cannot be measured, so that it counts as alive. In Slurm, the start of a job ends
    its earlier start. A heartbeat that is as far in the future is no sign of life: the clock of the
    file server was set back, and an owner that lives has changed it since.
    """
    if owner is not None:
        if _is_earlier_start(owner, observer):
            return False
        if is_neighbor(owner, observer):
            return process_exists(owner.pid, owner.pid_started)
    age_s = silence_s()
    return age_s is None or abs(age_s) <= SILENCE_S


def is_neighbor(owner: Owner, observer: Owner) -> bool:
    """Return whether the owner's process id means the same process to the observer."""
    this_kernel = (observer.boot_id, observer.pid_namespace)
    return (owner.boot_id, owner.pid_namespace) == this_kernel


def _is_earlier_start(owner: Owner, observer: Owner) -> bool:
    is_same_job = owner.job is not None and owner.job == observer.job
    return is_same_job and owner.job_restarts < observer.job_restarts


def process_exists(pid: int, started: float) -> bool:
    """Return whether the process with that id and start, seconds since the epoch, runs here."""
    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - started) < START_TOLERANCE_S
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return False
