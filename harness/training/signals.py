"""Graceful interruption: SIGTERM or Ctrl-C ends a run after its current step, state saved."""

import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass

from harness.errors import ExitCode

SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOP_GRACE_S = 5.0  # to finish the current step; after that a rank prints its stack and exits
STACK_DUMP_STAGGER_S = 0.3  # between the stack dumps of two ranks, which share a log


class TrainingInterrupted(Exception):
    """The run ends on request, all ranks after the same step; the message names the step."""


@dataclass
class StopRequest:
    """A request to stop: `requested` on this rank, `acknowledged` once all ranks know of it."""

    requested: bool = False
    acknowledged: bool = False

    @classmethod
    def on_signals(cls) -> "StopRequest":
        """Return a request that SIGTERM and SIGINT set from now on, until `restore_handlers`.

        A thread receives the signals. A Python signal handler would not run while the main thread
        waits in a collective.
        """
        stop = cls()
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
        threading.Thread(target=stop._wait, args=(reader,), daemon=True).start()
        # The fork server blocks them; one that was sent since the fork is delivered now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return stop

    def restore_handlers(self) -> None:
        """Restore the default action of the signals, which ends the process."""
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    def _wait(self, reader: socket.socket) -> None:
        while reader.recv(1)[0] not in SIGNALS:
            pass
        self.requested = True
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
        time.sleep(STOP_GRACE_S + STACK_DUMP_STAGGER_S * rank)
        if self.acknowledged:
            return  # the rank is saving its state; if that takes too long, the launcher kills it
        message = (
            f"rank {rank} was asked to end and finished no step in {STOP_GRACE_S:g} s; stacks:"
        )
        print(message, file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        time.sleep(STACK_DUMP_STAGGER_S * (world_size - rank))
        os._exit(ExitCode.INTERRUPTED)
