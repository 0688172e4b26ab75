"""Start a run on this machine with torchrun's engine, on processes forked from a preloaded server.

The `torchrun` command spends seconds of each start on importing torch. Its engine,
`elastic_launch`, with a fork server takes a tenth of that: same rendezvous, same environment, same
supervision of the ranks.
"""

import importlib
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from multiprocessing import connection, forkserver
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from harness.launch.watchdog import Watchdog
from harness.results.records import FailureReason, LaunchSpec
from harness.results.store import Run

WORKER = "harness.training.main"  # named, never imported here
PRELOADED = (
    "harness.cli.app",
    WORKER,
    "torch._dynamo",  # `use_deterministic_algorithms` imports it, which takes 0.7 s
)
STOP_EXCEPTIONS = (KeyboardInterrupt, SignalException)  # Ctrl-C, SIGTERM


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start_fork_server() -> None:
    """Start the fork server, which imports torch in the background; no effect if it runs."""
    for name in logging.root.manager.loggerDict:  # each has a level of its own
        if name.startswith("torch.distributed.elastic"):
            # status.json and log.txt report what these loggers would
            logging.getLogger(name).setLevel(logging.CRITICAL)
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()


def start(run: Run, launch: LaunchSpec) -> None:
    """Run one entry until it ends and record its status. Works in any thread.

    Raises:
        KeyboardInterrupt, SignalException: the user stopped it; the run is marked as interrupted.
    """
    start_fork_server()
    run.mark_running()
    try:
        with tempfile.TemporaryDirectory(prefix="ablations-") as scratch:
            _launch(run, launch, Path(scratch))
    except STOP_EXCEPTIONS:
        if run.status.status == "running":  # a rank that reached its next step has recorded more
            run.finish("interrupted", "killed", "stopped by the user")
        raise


def _launch(run: Run, launch: LaunchSpec, scratch: Path) -> None:
    """Start the ranks, wait for them, and record a failure that no rank has recorded."""
    pids = scratch / "pids"
    pids.mkdir()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=launch.world_size,
        run_id=run.run_id,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # a free port
        local_addr="localhost",
        max_restarts=0,
        start_method="forkserver",
        logs_specs=DefaultLogsSpecs(log_dir=str(scratch)),
    )
    threads = max(1, cores() // launch.world_size)
    reason: FailureReason = "error"
    message = "its processes ended without recording a result"
    watchdog = Watchdog(run, launch, pids)
    try:
        with watchdog:
            elastic_launch(config, _run_rank)(str(run.path.resolve()), threads, str(pids))
    except ChildFailedError as error:
        reason = "killed"
        message = _describe_failure(error)
    if watchdog.reason is not None:
        if run.status.status != "done":
            run.finish("failed", "timeout", watchdog.reason)
    elif run.status.status == "running":
        run.finish("failed", reason, message)


def _describe_failure(error: ChildFailedError) -> str:
    rank, failure = error.get_first_failure()
    name = failure.signal_name()
    hint = " (the system sends it when memory runs out)" if name == "SIGKILL" else ""
    return f"rank {rank}: {name}, exit code {failure.exitcode}{hint}"


def _run_rank(run_path: str, threads: int, pids: str) -> None:
    """Run one rank: register its process, print into the run's log, end with the launcher."""
    (Path(pids) / str(os.getpid())).touch()
    path = Path(run_path)
    log = Run(path).open_log()
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
