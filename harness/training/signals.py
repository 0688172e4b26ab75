"""Graceful interruption: SIGTERM, Ctrl-C, SIGUSR1 or SIGUSR2 ends a run after its current step."""

import signal
import socket
import threading
import time
from dataclasses import dataclass

from harness.errors import ExitCode

# SIGTERM and SIGINT end the run. SIGUSR1 and SIGUSR2 also ask for it to be started again.
EXIT_CODES = {
    signal.SIGTERM: ExitCode.INTERRUPTED,
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGUSR1: ExitCode.REQUEUE,
    signal.SIGUSR2: ExitCode.REQUEUE,
}
# How a request counts in a sum over all ranks: one to end outweighs all that ask for a restart.
VOTES = {ExitCode.DONE: 0, ExitCode.REQUEUE: 1, ExitCode.INTERRUPTED: 2**30}


class TrainingInterrupted(Exception):
    """The run ends on request, all ranks after the same step; the message names the step."""


@dataclass
class StopRequest:
    """A request to stop: `requested` on this rank, `acknowledged` once all ranks know of it.

    Each is the exit code of a rank that ends for it, `DONE` without a request. A request to end
    replaces one to end and start again, never the other way round: a cancelled job stays cancelled.
    `requested_at` is when this rank was first asked to end for good, on the monotonic clock.
    """

    requested: ExitCode = ExitCode.DONE
    acknowledged: ExitCode = ExitCode.DONE
    requested_at: float | None = None

    @classmethod
    def on_signals(cls) -> "StopRequest":
        """Return a request that the signals make from now on, until `restore_handlers`.

        A thread receives the signals. A Python signal handler would not run while the main thread
        waits in a collective.
        """
        stop = cls()
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
        for number in EXIT_CODES:
            signal.signal(number, lambda *_: None)
        threading.Thread(target=stop._receive, args=(reader,), daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_CODES)  # this process may inherit the mask
        return stop

    def restore_handlers(self) -> None:
        """Restore the default action of the signals, which ends the process.

        SIGUSR1 and SIGUSR2 are ignored: a rank that has ended its run is not killed by them.
        """
        signal.set_wakeup_fd(-1)
        for number, code in EXIT_CODES.items():
            is_ignored = code == ExitCode.REQUEUE
            signal.signal(number, signal.SIG_IGN if is_ignored else signal.SIG_DFL)

    def request(self, code: ExitCode) -> None:
        """Ask the run to end after its current step."""
        if code == ExitCode.INTERRUPTED and self.requested_at is None:
            self.requested_at = time.monotonic()
        self.requested = max(self.requested, code)

    @property
    def vote(self) -> int:
        """The request as a number: `acknowledge` gets the sum over all ranks."""
        return VOTES[self.requested]

    def acknowledge(self, votes: float) -> None:
        """Set `acknowledged` to the strongest request of all ranks."""
        for code, vote in VOTES.items():
            if votes >= vote:
                self.acknowledged = code

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of this rank, which a request after the last step changes as well."""
        return max(self.requested, self.acknowledged)

    def _receive(self, reader: socket.socket) -> None:
        while numbers := reader.recv(64):
            for number in numbers:
                if number in EXIT_CODES:
                    self.request(EXIT_CODES[signal.Signals(number)])
