"""Start a run on this machine with torchrun's engine, on processes forked from a preloaded server.

The `torchrun` command spends seconds of each start on importing torch. Its engine,
`elastic_launch`, with a fork server takes a tenth of that: same rendezvous, same environment, same
supervision of the ranks.
"""

import importlib
import math
import multiprocessing
import os
import platform
import signal
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from harness.errors import StoreError
from harness.launch import fork_server
from harness.launch.cores import cores
from harness.launch.loopback import Loopback, find_loopback
from harness.launch.nodes import Nodes
from harness.launch.parent import parent_death_signal
from harness.launch.ranks import Ranks, mark_returned, register
from harness.launch.slots import Slot
from harness.launch.stop import Stop
from harness.provenance.contents import Contents
from harness.results import timing
from harness.results.files import absolute
from harness.results.host_memory import host_capacities, n_oom_kills
from harness.results.limits import Limits
from harness.results.out_of_memory import Machine, explain_host
from harness.results.rank_log import print_into_log
from harness.results.records import FailureReason, LaunchSpec
from harness.results.run import Run
from harness.system_limits import remedy_of

POLL_INTERVAL_S = 0.1
CLAIM_CHECK_INTERVAL_S = 10.0
RANKS_MARGIN_S = 20.0  # for ranks to notice and record that they exceed a limit
STOP_GRACE_S = 30.0  # between the request to end and SIGKILL
ENGINE_GRACE_S = 10.0  # for the engines of other nodes, after all ranks of this one have ended
RECORD_GRACE_S = 5.0  # for the ranks of other nodes to record why the run failed
EXITED = (
    "ended with exit code 0 before the run was done: remove the call of os._exit, or of C's exit, "
    "from the variant or the library that it uses"
)
SERVER_KILLED = "the fork server, its parent process, was killed"
LOG_LINES = 50  # at the end of a run's log, in which a failed allocation is looked for
RENDEZVOUS_TIMEOUT_S = 600.0  # without a stall_timeout_s
MIN_RENDEZVOUS_TIMEOUT_S = 60.0  # a busy machine starts one process seconds after another
START_TIMEOUT_S = 300.0  # of the ranks, after the rendezvous; the engine's own does not always end
# Nodes judge each other by their clocks, which may differ: lost nodes are found by their ranks.
NEVER = 1_000_000


def start(
    run: Run,
    launch: LaunchSpec,
    slot: Slot | None = None,
    stop: Stop | None = None,
    nodes: Nodes | None = None,
) -> None:
    """Run one entry in a slot until it ends and record its status. Works in any thread.

    After a stop, the status is `interrupted`. With `nodes`, this starts the ranks of one of the
    nodes; node 0 records the status. The process must end afterwards by `os._exit`.

    Raises:
        ClaimLost: another process has taken the run over.
        UserError: the ranks could not connect to each other.
    """
    place = find_loopback() if nodes is None else nodes
    fork_server.start_fork_server()
    fork_server.silence_engine()
    if nodes is None or nodes.index == 0:
        run.mark_running()
    stop = stop or Stop()
    with (
        stop.launching(),
        tempfile.TemporaryDirectory(prefix="ablations-", ignore_cleanup_errors=True) as scratch,
    ):
        _Launch(run, launch, slot or Slot(), stop, place, Path(scratch)).run_ranks()


class _Launch:
    """One start of a run on this machine, with torchrun's engine in a thread of its own.

    Only in the main thread the engine would handle signals.
    """

    def __init__(
        self,
        run: Run,
        launch: LaunchSpec,
        slot: Slot,
        stop: Stop,
        place: Nodes | Loopback,
        scratch: Path,
    ) -> None:
        self._run = run
        self._launch = launch
        self._stop = stop
        self._nodes = place if isinstance(place, Nodes) else None
        self._n_ranks = launch.world_size // (self._nodes.count if self._nodes else 1)
        pids = scratch / "pids"
        pids.mkdir()
        self._pids = pids
        self._ranks = Ranks(pids)
        self._limits = Limits(run, launch, RANKS_MARGIN_S)
        self._rank = _Rank(
            worker=fork_server.WORKER,
            run=Run(absolute(run.path), run.claim_number),
            pids=pids,
            slot=slot,
            loaded=fork_server.loaded_code(),
            interface=place.interface if isinstance(place, Loopback) else None,
            threads=slot.threads or max(1, (len(slot.cores) or cores()) // self._n_ranks),
        )
        timeout_s = launch.stall_timeout_s or RENDEZVOUS_TIMEOUT_S
        self._rendezvous_timeout_s = max(timeout_s, MIN_RENDEZVOUS_TIMEOUT_S)
        self._config = self._launch_config(place, scratch)
        self._ended = threading.Event()
        self._error: Exception | None = None
        self._n_oom_kills = n_oom_kills()

    def run_ranks(self) -> None:
        """Start the ranks, wait for them, and record a failure that no rank has recorded."""
        threading.Thread(target=self._run_engine, daemon=True).start()
        try:
            self._wait()
        except BaseException:
            self._ranks.send(signal.SIGKILL)
            self._ended.wait(STOP_GRACE_S)
            raise
        is_first_node = self._nodes is None or self._nodes.index == 0
        if not is_first_node:
            self._log_failure()
        if (is_first_node or self._early_end() is not None) and self._is_unrecorded():
            self._record()

    def _launch_config(self, place: Nodes | Loopback, scratch: Path) -> LaunchConfig:
        if isinstance(place, Nodes):
            nodes = place
        else:
            nodes = Nodes(0, 1, place.endpoint, self._run.run_id)
        timeout_s = math.ceil(self._rendezvous_timeout_s)
        return LaunchConfig(
            min_nodes=nodes.count,
            max_nodes=nodes.count,
            nproc_per_node=self._n_ranks,
            run_id=nodes.rendezvous_id,
            rdzv_backend="c10d",
            rdzv_endpoint=nodes.endpoint,
            rdzv_configs={
                "is_host": nodes.index == 0,
                "join_timeout": timeout_s,
                "read_timeout": timeout_s,
                "keep_alive_max_attempt": NEVER,
            },
            local_addr=nodes.address,
            max_restarts=0,
            start_method="forkserver",
            logs_specs=DefaultLogsSpecs(log_dir=str(scratch)),
        )

    def _run_engine(self) -> None:
        fork_server.block_signals()
        try:
            with fork_server.expect_results(self._pids):
                elastic_launch(self._config, _run_rank)(self._rank)
        except Exception as error:
            self._error = error
        finally:
            self._ended.set()

    def _wait(self) -> None:
        """Wait until the engine has ended; on a stop or an exceeded limit, end the ranks.

        Raises:
            ClaimLost: another process has taken the run over.
        """
        kill_at = math.inf
        leave_at = math.inf
        started = time.monotonic()
        check_claim_at = started + CLAIM_CHECK_INTERVAL_S
        start_by = started + self._rendezvous_timeout_s + START_TIMEOUT_S
        while not self._ended.wait(POLL_INTERVAL_S):
            now = time.monotonic()
            if now >= check_claim_at:
                self._run.check_claim()
                check_claim_at = now + CLAIM_CHECK_INTERVAL_S
            number = self._end_signal()
            if number is not None:
                kill_at = min(kill_at, now + STOP_GRACE_S)
                self._ranks.send(number if now < kill_at else signal.SIGKILL)
            if self._nodes is not None:  # the engine may wait for a node that is gone
                if not self._ranks.have_started() and (number is not None or now >= start_by):
                    return
                if self._ranks.have_ended(self._n_ranks):
                    leave_at = min(leave_at, now + ENGINE_GRACE_S)
                if now >= leave_at:
                    return

    def _end_signal(self) -> signal.Signals | None:
        """Return the signal by which the ranks are to end, if they are."""
        if self._stop.requested is not None:
            return self._stop.requested
        if self._nodes is not None and not self._ranks.have_started():
            return None  # the engine limits the time in which the nodes meet
        return None if self._limits.check() is None else signal.SIGTERM

    def _is_unrecorded(self) -> bool:
        """Return whether no rank has recorded how the run ended."""
        deadline = time.monotonic()
        if self._nodes is not None and self._ranks.have_started() and not self._knows_cause():
            deadline += RECORD_GRACE_S
        while True:
            status = self._run.status.status
            if status == "interrupted":
                return self._limits.reason is not None  # the ranks do not know why
            if status != "running" or time.monotonic() >= deadline:
                return status == "running"
            time.sleep(POLL_INTERVAL_S)

    def _knows_cause(self) -> bool:
        """Return whether this node knows why the run ended before the ranks of others do."""
        return self._stop.requested is not None or self._early_end() is not None

    def _early_end(self) -> str | None:
        """Return which process of this node was killed or exited with code 0, if that came first.

        None if the launcher ended it.
        """
        if self._stop.requested is not None:
            return None
        if isinstance(self._error, fork_server.ForkServerKilled):
            return f"a rank that started: {SERVER_KILLED}"
        if not isinstance(self._error, ChildFailedError):
            return None
        rank, failure = self._error.get_first_failure()
        if failure.exitcode == fork_server.NO_RESULT:
            return f"rank {rank} {EXITED}"
        if failure.exitcode == fork_server.NO_SERVER:
            return f"rank {rank}: {SERVER_KILLED}"
        if failure.exitcode >= 0:
            return None
        name = failure.signal_name()
        hint = ""
        if self._was_out_of_memory(name):
            hint = " (memory ran out)"
        elif name == "SIGKILL":
            hint = " (the system sends it when memory runs out)"
        return f"rank {rank}: {name}, exit code {failure.exitcode}{hint}"

    def _was_out_of_memory(self, signal_name: str) -> bool:
        """Return whether a rank that this signal ended had no memory left.

        The kernel counts the processes that it ends for that. C++ aborts if an allocation fails.
        """
        if signal_name == "SIGABRT":
            return any("std::bad_alloc" in line for line in self._run.log_tail(LOG_LINES))
        if signal_name != "SIGKILL" or self._n_oom_kills is None:
            return False
        return (n_oom_kills() or 0) > self._n_oom_kills

    def _record(self) -> None:
        if self._limits.reason is not None:
            self._run.finish("failed", "timeout", self._limits.reason)
        elif self._stop.requested is not None:
            self._run.finish("interrupted", "killed", f"stopped by {self._stop.requested.name}")
        else:
            self._run.finish("failed", *self._failure())

    def _log_failure(self) -> None:
        """Leave what this node's engine knows of a failure in the log of this host."""
        if self._error is None:
            return
        with open(self._run.open_log(platform.node()), "w", encoding="utf-8") as log:
            log.write(f"{self._failure()[1]}\n")

    def _failure(self) -> tuple[FailureReason, str]:
        """Return why the run failed, as far as the engine knows."""
        if isinstance(self._error, ChildFailedError):
            rank, failure = self._error.get_first_failure()
            cause = self._early_end() or f"rank {rank}: exit code {failure.exitcode}"
            if self._nodes is not None:
                cause = f"{cause}, on {platform.node()}"
            if failure.exitcode < 0 and self._was_out_of_memory(failure.signal_name()):
                return "oom", f"{cause}; {self._explain_memory()}"
            if failure.exitcode == fork_server.NO_RESULT:
                return "error", cause
            return "killed" if self._nodes is None else "lost", cause
        if isinstance(self._error, RendezvousError) and self._nodes is not None:
            place = f"{self._nodes.count} nodes at {self._nodes.endpoint}"
            return "lost", f"no rendezvous of {place}: {_one_line(self._error)}"
        if isinstance(self._error, fork_server.ForkServerKilled):
            cause = self._early_end() or SERVER_KILLED
            if self._nodes is None:
                return "killed", cause
            return "lost", f"{cause}, on {platform.node()}"
        if self._error is not None:
            return "error", _one_line(self._error)
        if self._nodes is not None:
            return "lost", "its processes ended without recording a result"
        return "error", "its processes ended without recording a result"

    def _explain_memory(self) -> str:
        """Return what a rank was predicted to need, what there is, and which settings need less."""
        machine = Machine(is_shared=self._rank.slot.timing == "shared")
        try:
            return explain_host(self._run.spec, host_capacities(), machine, self._n_ranks)
        except StoreError as error:
            return f"the need is unknown: {error}"


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0] + remedy_of(error)


@dataclass(frozen=True)
class _Rank:
    """The inputs of a rank's process besides torchrun's environment."""

    worker: str  # module with `run_worker`
    run: Run
    pids: Path  # folder of a file for each rank's process
    slot: Slot
    loaded: Contents  # of the code that the fork server has loaded
    interface: str | None  # of the connections between ranks; None: torch chooses it
    threads: int


def _run_rank(rank: _Rank) -> None:
    """Run one rank: register its process, print into the run's log, end with its parents."""
    parent_death_signal(signal.SIGKILL)()  # of the fork server, its parent
    if rank.slot.cores:
        os.sched_setaffinity(0, rank.slot.cores)
    if rank.slot.devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(rank.slot.devices)
    os.environ |= timing.variable(rank.slot.timing)
    os.environ["OMP_NUM_THREADS"] = str(rank.threads)
    if rank.interface is not None:  # gloo would resolve the name of the host
        os.environ.setdefault("GLOO_SOCKET_IFNAME", rank.interface)
    register(rank.pids)
    print_into_log(rank.run)
    threading.Thread(target=_end_with_agent, daemon=True).start()
    worker = importlib.import_module(rank.worker)
    worker.run_worker(rank.run.path, rank.run.claim_number, rank.loaded)
    mark_returned(rank.pids)


def _end_with_agent() -> None:
    """Kill this rank when the agent's process has ended."""
    agent = multiprocessing.parent_process()
    if agent is not None:
        connection.wait([agent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)
