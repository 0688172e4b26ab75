"""The processes of a run's ranks on this machine, which an agent signals."""

import contextlib
import signal
from pathlib import Path

import psutil


class Ranks:
    """The ranks of one launch: each creates a file in `folder` that its process id names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[int, psutil.Process | None] = {}  # None: ended at once
        self._sent: set[tuple[int, signal.Signals]] = set()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to each rank, once: also to ranks that have started since."""
        for pid, process in self._started().items():
            if (pid, number) not in self._sent:
                self._sent.add((pid, number))
                if process is None:
                    continue
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def have_started(self) -> bool:
        """Return whether any rank has started."""
        return bool(self._started())

    def have_ended(self, n_ranks: int) -> bool:
        """Return whether so many ranks have started, and all of them have ended."""
        processes = self._started().values()
        return len(processes) >= n_ranks and not any(map(_is_alive, processes))

    def _started(self) -> dict[int, psutil.Process | None]:
        for path in self._folder.iterdir():
            pid = int(path.name)
            if pid not in self._processes:
                self._processes[pid] = _process(pid)
        return self._processes


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _is_alive(process: psutil.Process | None) -> bool:
    if process is None:
        return False
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
