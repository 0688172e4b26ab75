"""The processes of a run's ranks on this machine, which an agent signals."""

import contextlib
import os
import signal
from pathlib import Path

import psutil

RETURNED = ".returned"


def register(folder: Path) -> None:
    """Create a file that names this process, a rank that has started."""
    (folder / str(os.getpid())).touch()


def mark_returned(folder: Path) -> None:
    """Rename the file of this process, a rank that has done all its work."""
    path = folder / str(os.getpid())
    with contextlib.suppress(FileNotFoundError):  # the agent has left
        path.rename(path.with_suffix(RETURNED))


def has_returned(folder: Path, pid: int) -> bool:
    """Return whether a process has done all its work, or is not a rank of this folder."""
    return not (folder / str(pid)).exists()


class Ranks:
    """The ranks of one launch: each registers itself in `folder`."""

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
            pid = int(path.stem)
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
