"""Start a run on this machine with torchrun's engine, on processes forked from a preloaded server.

The `torchrun` command spends seconds of each start on importing torch. Its engine,
`elastic_launch`, with a fork server takes a tenth of that: same rendezvous, same environment, same
supervision of the ranks.
"""

import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from harness.launch import fork_server
from harness.launch.devices import cores
from harness.launch.ranks import Ranks
from harness.launch.slots import Slot
from harness.launch.stop import Stop
from harness.launch.watchdog import Watchdog
from harness.results.records import LaunchSpec
from harness.results.store import Run

POLL_INTERVAL_S = 0.1
STOP_GRACE_S = 30.0  # between the request to end and SIGKILL


def start(run: Run, launch: LaunchSpec, slot: Slot | None = None, stop: Stop | None = None) -> None:
    """Run one entry in a slot until it ends and record its status. Works in any thread.

    After a stop, the status is `interrupted`.
    """
    slot = slot or Slot()
    stop = stop or Stop()
    fork_server.start_fork_server()
    fork_server.silence_engine()
    run.mark_running()
    with (
        stop.launching(),
        tempfile.TemporaryDirectory(prefix="ablations-", ignore_cleanup_errors=True) as scratch,
    ):
        _launch(run, launch, slot, stop, Path(scratch))


def _launch(run: Run, launch: LaunchSpec, slot: Slot, stop: Stop, scratch: Path) -> None:
    """Start the ranks, wait for them, and record a failure that no rank has recorded."""
    pids = scratch / "pids"
    pids.mkdir()
    ranks = Ranks(pids)
    n_cores = len(slot.cores) or cores()
    rank = _Rank(
        run=run.path.resolve(),
        pids=pids,
        slot=slot,
        threads=max(1, n_cores // launch.world_size),
    )
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
    engine = _Engine(config, rank)
    watchdog = Watchdog(run, launch)
    try:
        _wait(engine, ranks, watchdog, stop)
    except BaseException:
        ranks.send(signal.SIGKILL)
        raise
    if watchdog.reason is not None:
        if run.status.status != "done":
            run.finish("failed", "timeout", watchdog.reason)
    elif run.status.status == "running":
        if stop.requested is not None:
            run.finish("interrupted", "killed", "stopped by the user")
        else:
            _record_failure(run, engine)


def _wait(engine: "_Engine", ranks: Ranks, watchdog: Watchdog, stop: Stop) -> None:
    """Wait until the engine has ended; on a stop or an exceeded limit, end the ranks."""
    deadline = None
    while not engine.ended.wait(POLL_INTERVAL_S):
        number = stop.requested
        if number is None and watchdog.check() is not None:
            number = signal.SIGTERM
        if number is None:
            continue
        if deadline is None:
            deadline = time.monotonic() + STOP_GRACE_S
        ranks.send(number if time.monotonic() < deadline else signal.SIGKILL)


def _record_failure(run: Run, engine: "_Engine") -> None:
    if isinstance(engine.error, ChildFailedError):
        run.finish("failed", "killed", _describe_failure(engine.error))
    elif engine.error is not None:
        message = f"{type(engine.error).__name__}: {engine.error}".splitlines()[0]
        run.finish("failed", "error", message)
    else:
        run.finish("failed", "error", "its processes ended without recording a result")


def _describe_failure(error: ChildFailedError) -> str:
    rank, failure = error.get_first_failure()
    name = failure.signal_name()
    hint = " (the system sends it when memory runs out)" if name == "SIGKILL" else ""
    return f"rank {rank}: {name}, exit code {failure.exitcode}{hint}"


class _Engine:
    """torchrun's engine in a thread of its own: only in the main thread it would handle signals."""

    def __init__(self, config: LaunchConfig, rank: "_Rank") -> None:
        self.ended = threading.Event()
        self.error: Exception | None = None
        self._config = config
        self._rank = rank
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        fork_server.block_signals()
        try:
            elastic_launch(self._config, _run_rank)(self._rank)
        except Exception as error:
            self.error = error
        finally:
            self.ended.set()


@dataclass(frozen=True)
class _Rank:
    """What the process of a rank needs besides torchrun's environment."""

    run: Path
    pids: Path  # folder of a file for each rank's process
    slot: Slot
    threads: int


def _run_rank(rank: _Rank) -> None:
    """Run one rank: register its process, print into the run's log, end with the launcher."""
    if rank.slot.cores:
        os.sched_setaffinity(0, rank.slot.cores)
    if rank.slot.devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(rank.slot.devices)
    os.environ["ABLATIONS_TIMING"] = rank.slot.timing
    os.environ["OMP_NUM_THREADS"] = str(rank.threads)
    (rank.pids / str(os.getpid())).touch()
    log = os.open(Run(rank.run).log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    importlib.import_module(fork_server.WORKER).run_worker(rank.run, claim=False)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)
