"""Watch a rank from a thread: its claim, its limits, and whether it ends when asked to."""

import contextlib
import faulthandler
import math
import os
import sys
import threading
import time

from harness.distributed.process_group import DistributedContext
from harness.errors import ClaimLost, ExitCode, StoreError
from harness.results.claims import HEARTBEAT_S
from harness.results.limits import Limits
from harness.results.records import FailureReason, LaunchSpec
from harness.results.run import Run
from harness.training.roll_call import RollCall
from harness.training.signals import StopRequest

STOP_GRACE_S = 20.0  # to finish the current step; Slurm and the agent kill a rank after 30 s
ASKING_S = 30.0  # before a stall, in which the ranks ask each other: at most half of its limit
RECORD_S = 0.2  # to record a stall within its limit: at most a tenth of it
STACK_DUMP_STAGGER_S = 0.3  # between the stack dumps of two ranks, which share a log
STACK_DUMP_GRACE_S = 6.0  # for ranks that notice a stall late: the first that ends ends all


class Watch:
    """End this rank if its claim is lost, a limit is exceeded, or a request to end has no effect.

    `with Watch(...) as watch:` starts the thread. It beats for the `run`, from its claim on; a run
    whose claim is lost belongs to another process, so this one ends without a word. `joined` is set
    to the context of the process group once all ranks have met, `hosts` to the host of each rank.
    """

    def __init__(self, run: Run, limits: LaunchSpec, stop: StopRequest) -> None:
        self.run = run
        self.joined: DistributedContext | None = None
        self.hosts: list[str] = []
        self.timeout: str | None = None  # the exceeded `timeout_s`, for which the run is to end
        self._stop = stop
        stall_timeout_s = limits.stall_timeout_s or math.inf
        self._limits = Limits(run, limits, -min(RECORD_S, stall_timeout_s / 10))
        self._asking_s = min(ASKING_S, stall_timeout_s / 2)
        self._roll_call = RollCall()
        self._rank = int(os.environ["RANK"])
        self._world_size = int(os.environ["WORLD_SIZE"])
        self._beaten = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self._limits.wait_s):
            self._check()

    def _check(self) -> None:
        now = time.monotonic()
        if now - self._beaten >= HEARTBEAT_S:
            self._beaten = now
            with contextlib.suppress(OSError):  # the file server may be away for a while
                if not self.run.beat():
                    os._exit(ExitCode.CLAIM_LOST)
        asked_at = self._stop.requested_at
        if asked_at is not None and self.joined is None and self.timeout is None:
            os._exit(ExitCode.INTERRUPTED)  # no step to save; its peers may never come
        if asked_at is not None and not self._stop.acknowledged:
            if now - asked_at >= STOP_GRACE_S:
                self._end_unstopped()
            return
        reason = self._limits.check()
        if self.joined is not None and self._limits.stall_left_s <= self._asking_s:
            self._roll_call.ask(self.joined)
        if reason is None:
            self._end_if_a_peer_has_stalled()
        elif self._limits.has_stalled:
            self._end_stalled(reason)
        elif self._rank == 0 and asked_at is None:
            self.timeout = reason
            self._stop.request(ExitCode.INTERRUPTED)

    def _end_unstopped(self) -> None:
        """End a rank that has not ended on request; what asked it to records why."""
        print_stacks(
            f"rank {self._rank} was asked to end and finished no step in {STOP_GRACE_S:g} s"
        )
        if self.timeout is not None:
            self._record("timeout", self.timeout)
        os._exit(ExitCode.INTERRUPTED)

    def _end_stalled(self, reason: str) -> None:
        """End this rank, as all others do, and record which of them do not answer.

        They make no progress either, so all of them notice at about the same time.
        """
        if self._ended.is_set():
            return
        silent = []
        for rank in range(self._world_size):
            if rank != self._rank and not self._roll_call.has_answered(rank, self._asking_s / 2):
                silent.append(rank)
        message = reason
        if silent:
            message = f"{reason}; no answer from {', '.join(map(self._describe, silent))}"
        self._record("lost" if silent else "timeout", message)
        self._end_with_stacks(message)

    def _end_if_a_peer_has_stalled(self) -> None:
        """End this rank if another one has recorded a stall of this attempt.

        To record it changes the run's files, so this rank would not find that they stopped to.
        """
        with contextlib.suppress(OSError, StoreError):  # the file server may be away for a while
            status = self.run.status
            is_of_this_attempt = status.claim is not None and status.claim == self.run.claim_number
            has_stalled = status.status == "failed" and status.reason in ("lost", "timeout")
            if is_of_this_attempt and has_stalled and not self._ended.is_set():
                self._end_with_stacks(str(status.message))

    def _end_with_stacks(self, message: str) -> None:
        print_stacks(f"rank {self._rank}: {message}")
        local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        n_later = local_world_size - _local_rank()
        time.sleep(STACK_DUMP_STAGGER_S * n_later + STACK_DUMP_GRACE_S)
        os._exit(ExitCode.SOME_FAILED)

    def _describe(self, rank: int) -> str:
        return f"rank {rank} on {self.hosts[rank]}" if self.hosts else f"rank {rank}"

    def _record(self, reason: FailureReason, message: str) -> None:
        """Record the failure, unless the run has ended or belongs to another process."""
        with contextlib.suppress(ClaimLost, OSError):
            if self.run.claim_number is not None and self.run.status.status == "running":
                self.run.finish("failed", reason, message)


def print_stacks(message: str) -> None:
    """Print the stack of each thread, in the order of the ranks of this host."""
    time.sleep(STACK_DUMP_STAGGER_S * _local_rank())
    with contextlib.suppress(OSError):  # the disk may be full
        print(f"{message}; stacks:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))
