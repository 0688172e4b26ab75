"""Ending on request: SIGTERM or Ctrl-C ends a run at its next step, with its state saved, or soon in any case."""

import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass

STOPPED = 130  # exit code
SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE_S = 5.0  # to come to the next step; after that a rank prints its stack and ends
APART_S = 0.3  # between the stacks of two ranks, which share a log


class StoppedError(Exception):
    """The run ends because it was asked to, all ranks after the same step; the message names it."""


@dataclass
class Stop:
    """Whether this rank was asked to end (`asked`), and whether all ranks know it by now and act upon it (`heard`)."""

    asked: bool = False
    heard: bool = False

    @classmethod
    def on_signals(cls) -> "Stop":
        """Return one that SIGTERM and SIGINT set from now on, until `release`.

        A thread waits for them: where the main thread waits for another rank, it would never come to handle a signal.
        """
        stop = cls()
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
        threading.Thread(target=stop._wait, args=(reader,), daemon=True).start()
        return stop

    def release(self) -> None:
        """Let the signals end this process again."""
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    def _wait(self, reader: socket.socket) -> None:
        while reader.recv(1)[0] not in SIGNALS:
            pass
        self.asked = True
        rank, world_size = (
            int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE")
        )
        time.sleep(GRACE_S + APART_S * rank)
        if self.heard:
            return  # it saves its state; should that take too long, the launcher ends it
        print(
            f"rank {rank} was asked to end and made no step for {GRACE_S:g} s; this is where it is:",
            file=sys.stderr,
        )
        sys.stderr.flush()
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        time.sleep(APART_S * (world_size - rank))
        os._exit(STOPPED)
