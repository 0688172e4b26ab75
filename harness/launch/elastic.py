"""Start a run on this machine: torchrun's engine, with processes forked from a server that has torch loaded already.

The `torchrun` command spends seconds of each start on importing torch. Its engine, `elastic_launch`, does the same with
a fork server in a tenth of the time: same rendezvous, same environment, same supervision of the ranks.
"""

import contextlib
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing import connection, forkserver
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from harness.results.records import LaunchSpec
from harness.results.store import Run

WORKER = "harness.training.main"  # named, never imported here
PRELOADED = (
    "harness.cli.app",
    WORKER,
    "torch._dynamo",
)  # the last by way of `use_deterministic_algorithms`: 0.7 s
LOOK_S = 1.0  # between two looks at how a run is doing
STOPPED = (KeyboardInterrupt, SignalException)  # Ctrl-C, SIGTERM


class _TimeoutError(Exception):
    """The run takes too long, or shows no sign of life; the message tells which."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_fork_server() -> None:
    """Start the fork server, which imports torch while the caller does something else."""
    for name in logging.root.manager.loggerDict:  # each of them has a level of its own
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(
                logging.CRITICAL
            )  # their news are in status.json and log.txt
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()


def start(run: Run, place: LaunchSpec) -> None:
    """Run one entry to its end, whatever that is; the run's status tells it.

    Raises:
        KeyboardInterrupt, SignalException: the user stops; the run is marked as interrupted.
    """
    run.mark_running()
    threads = max(1, cores() // place.world_size)
    try:
        with tempfile.TemporaryDirectory(prefix="ablations-") as scratch, _limits(run, place):
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=place.world_size,
                run_id=run.run_id,
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",  # a free port
                local_addr="localhost",
                max_restarts=0,
                start_method="forkserver",
                logs_specs=DefaultLogsSpecs(log_dir=scratch),
            )
            elastic_launch(config, _rank)(str(run.path.resolve()), threads)
        if run.status.status == "running":
            run.finish("failed", "error", "its processes ended without saying how")
    except ChildFailedError as error:
        if run.status.status == "running":  # a rank that could speak has said why
            rank, failure = error.get_first_failure()
            hint = (
                " (the system does that when memory runs out)"
                if failure.signal_name() == "SIGKILL"
                else ""
            )
            run.finish(
                "failed",
                "killed",
                f"rank {rank}: {failure.signal_name()}, exit code {failure.exitcode}{hint}",
            )
    except _TimeoutError as error:
        if run.status.status != "done":
            run.finish("failed", "timeout", str(error))
    except STOPPED:
        if run.status.status == "running":  # a rank that came to its next step has said after which
            run.finish("interrupted", "killed", "stopped by the user")
        raise


@contextlib.contextmanager
def _limits(run: Run, place: LaunchSpec) -> Iterator[None]:
    """Interrupt the body when the run takes too long, or when its files show no sign of life for too long."""
    limits = [
        seconds for seconds in (place.timeout_s, place.stall_timeout_s) if seconds is not None
    ]
    every_s = min([LOOK_S, *limits])
    began = looked = time.monotonic()
    last_activity, silent_s = run.last_activity(), 0.0

    def look(*_: object) -> None:
        nonlocal looked, last_activity, silent_s
        now = time.monotonic()
        beat, since = (
            run.last_activity(),
            min(now - looked, 2 * every_s),
        )  # while this process sleeps, so may the ranks
        silent_s, looked, last_activity = (
            silent_s + since if beat == last_activity else 0.0,
            now,
            beat,
        )
        why = None
        if place.timeout_s is not None and now - began >= place.timeout_s:
            why = f"not done after launch.timeout_s = {place.timeout_s:g} s"
        elif place.stall_timeout_s is not None and silent_s >= place.stall_timeout_s:
            why = f"no sign of life for launch.stall_timeout_s = {place.stall_timeout_s:g} s"
        if why is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise _TimeoutError(why)

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, *(every_s, every_s) if limits else (0, 0))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _rank(run_path: str, threads: int) -> None:
    """Be one rank: print into the run's log, end with the harness, work."""
    path = Path(run_path)
    log = os.open(Run(path).log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    importlib.import_module(WORKER).run_worker(path, claim=False)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)
