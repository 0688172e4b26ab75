"""Claims of runs: at most one process writes a run, also of several hosts, without locks.

A claim of a run is the file `<n>.json` in a folder of the run. Its number n fences: the highest
number is the current claim, and to take over a free claim is to create the file of the next
number, which the file system allows to one process. A claim is free when its file is named
`<n>.released`, or when its owner is dead (`harness.results.owner`). Owners on other hosts are
judged by a heartbeat: each owner updates the time of its file every HEARTBEAT_S. The observer
updates a file of its own in the same folder and compares the two times, which are both of the file
server's clock.

Guaranteed, if the file system creates, links, renames and removes atomically, as local file
systems and NFS do:

- One process at most holds the current claim. Its number is higher than all earlier ones.
- An owner that was taken for dead and wakes up replaces no file afterwards (status, spec, env,
  probes, curves, links to checkpoints). A fenced write has three steps: write a temporary file in
  the folder of the claims, check that the own claim file exists, rename the temporary file. A
  successor removes the claim file, then the temporary files, before it writes: whichever step the
  owner was stopped at, a later one fails.
- Lines that it appends later are lost: the successor replaces these files by copies first
  (`Run.mark_running`), and a file is opened before the claim is checked.

Not guaranteed: removals (of outdated files and checkpoints) and the moving of a run's folder follow
a check at once, but an owner that is stopped for SILENCE_S between the two still does the one
operation. Files in place before it stopped stay.

No claim is flushed to disk. After a power failure its owner is dead as well; a file that is lost or
empty then counts as free, an empty one after SILENCE_S.
"""

import contextlib
import os
import re
import secrets
import stat
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from pydantic import ValidationError

from harness.errors import ClaimLost
from harness.results import owner as owners
from harness.results.files import check_own_folder, create, open_file, read_file, remove
from harness.results.records import Owner
from harness.results.records.base import MAX_COUNT

if TYPE_CHECKING:
    from harness.results.run import Run

HEARTBEAT_S = 10.0
POLL_INTERVAL_S = 0.5  # of one who waits for a claim, at first
MAX_POLL_INTERVAL_S = 5.0

HELD = ".json"
RELEASED = ".released"
TEMPORARY = ".tmp"
NUMBER = "(0|[1-9][0-9]*)"
CLAIM_NAME = re.compile(rf"{NUMBER}(?:{re.escape(HELD)}|{re.escape(RELEASED)})")
TEMPORARY_NAME = re.compile(rf"{NUMBER}\.[0-9a-f]+{re.escape(TEMPORARY)}")


@dataclass(frozen=True)
class Claim:
    """The right to write `run`, until `release()` or the end of this process.

    A context manager that releases the claim. `number` is the claim's.
    """

    run: "Run"
    number: int
    _fence: "Fence"
    _pid: int = field(default_factory=os.getpid)

    def is_current(self) -> bool:
        """Return whether no other process has taken the claim over."""
        return self._fence.is_current()

    def release(self) -> None:
        """Leave the run to others. A forked child does not release its parent's claim."""
        if os.getpid() == self._pid:
            self._fence.release()

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass(frozen=True)
class Fence:
    """The claim `number` of the run whose claims are in `folder`: checks, heartbeat, release."""

    folder: Path
    number: int

    @property
    def path(self) -> Path:
        """The claim's file while it is held."""
        return self.folder / f"{self.number}{HELD}"

    def beat(self) -> bool:
        """Show that a process of the owner lives; return whether the claim is held.

        The file server answers, not a cache of this host.
        """
        try:
            os.utime(self.path)
        except FileNotFoundError:
            return False
        return True

    def is_current(self) -> bool:
        """Return whether the claim is held and no later one exists."""
        return self.is_newest() and self.beat()

    def is_newest(self) -> bool:
        """Return whether the claim has the highest number, and was not released."""
        newest = _newest(self.folder)
        return newest is not None and newest.name == self.path.name

    def check(self) -> None:
        """Refuse to write for a claim that is not current.

        Raises:
            ClaimLost: another process has taken the run over, or the claim was released.
        """
        if not self.is_current():
            raise ClaimLost(f"{self.folder.name}: claim {self.number} is lost to another process")

    def temporary(self) -> Path:
        """Return the path of a new temporary file, which a successor removes."""
        return self.folder / f"{self.number}.{secrets.token_hex(8)}{TEMPORARY}"

    def release(self) -> None:
        """Mark the claim as released; no effect if it is lost."""
        _heart().remove(self)
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path, self.path.with_suffix(RELEASED))


def take(folder: Path, wait_s: float = 0) -> Fence | None:
    """Claim the run whose claims are in `folder` for this process; None if another one holds it.

    Wait up to `wait_s` seconds for it.
    """
    deadline = time.monotonic() + wait_s
    interval_s = POLL_INTERVAL_S
    while True:
        fence = _try_to_take(folder)
        remaining_s = deadline - time.monotonic()
        if fence is not None or remaining_s <= 0:
            return fence
        time.sleep(min(interval_s, remaining_s))
        interval_s = min(1.2 * interval_s, MAX_POLL_INTERVAL_S)


def owner_of(folder: Path) -> Owner | None:
    """Return the owner of the current claim in `folder`; None if it is free or not readable."""
    newest = _newest(folder)
    if newest is None or not _is_held(folder, newest, owners.this_process()):
        return None
    return _read_owner(folder / newest.name)


def is_number_held(folder: Path, number: int) -> bool:
    """Return whether the claim of that number is the current one and its owner lives."""
    newest = _newest(folder)
    if newest is None or newest.number != number:
        return False
    return _is_held(folder, newest, owners.this_process())


@dataclass(frozen=True, order=True)  # of one number, a released file is later than a held one
class _ClaimFile:
    number: int
    name: str

    @property
    def is_released(self) -> bool:
        return self.name.endswith(RELEASED)


def _parse_name(name: str) -> _ClaimFile | None:
    """Return the claim that a file is named as; None for any other file of the folder."""
    match = CLAIM_NAME.fullmatch(name)
    number = int(match[1]) if match else MAX_COUNT
    return _ClaimFile(number, name) if number < MAX_COUNT else None  # the next one is a Count


def _newest(folder: Path) -> _ClaimFile | None:
    """Return the file of the current claim; None if the run was never claimed."""
    _check_folder(folder)
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return None
    files = (_parse_name(name) for name in names)
    return max((file for file in files if file is not None), default=None)


def _check_folder(folder: Path) -> None:
    """Check that the claims are in the study's folder: earlier ones are removed.

    Raises:
        StoreError: the folder or that of all claims is a link or no folder.
    """
    for path in (folder.parent, folder):
        check_own_folder(path)


def _try_to_take(folder: Path) -> Fence | None:
    observer = owners.this_process()
    newest = _newest(folder)
    if newest is None:
        folder.mkdir(parents=True, exist_ok=True)
    elif _is_held(folder, newest, observer):
        return None
    fence = Fence(folder, 1 if newest is None else newest.number + 1)
    with _heart().taking:  # no other thread judges the claim before it is held
        if not _create_as_newest(fence, observer):
            return None
        _heart().add(fence)
    _remove_earlier(folder, fence.number, CLAIM_NAME)
    _remove_earlier(folder, fence.number, TEMPORARY_NAME)
    return fence


def _create_as_newest(fence: Fence, owner: Owner) -> bool:
    """Create the claim's file; return False if that number was taken, now or earlier."""
    if not _create(fence, owner):
        return False
    if fence.is_newest():
        return True
    fence.path.unlink(missing_ok=True)  # it was taken, released and removed before
    return False


def _create(fence: Fence, owner: Owner) -> bool:
    """Create the claim's file with its whole content; return False if another process has."""
    temporary = fence.temporary()
    try:
        temporary.write_bytes(orjson.dumps(owner.model_dump()))
        return create(temporary, fence.path)
    except FileNotFoundError:  # a later claim has removed one of the files
        return False
    finally:
        temporary.unlink(missing_ok=True)


def _remove_earlier(folder: Path, number: int, names: re.Pattern[str]) -> None:
    for name in os.listdir(folder):
        match = names.fullmatch(name)
        if match and int(match[1]) < number:
            with contextlib.suppress(FileNotFoundError):
                remove(folder / name)  # also a folder: a copy in place of a link


def _is_held(folder: Path, file: _ClaimFile, observer: Owner) -> bool:
    """Return whether the owner of the current claim lives and has not released it."""
    path = folder / file.name
    if file.is_released or not _is_file(path):
        return False
    owner = _read_owner(path)
    if owner is not None and _is_same_process(owner, observer):
        # The study may have been moved after the claim.
        with _heart().taking:
            return _heart().holds(Fence(folder, file.number))
    return owners.is_alive(owner, observer, lambda: silence_s(path))


def _is_file(path: Path) -> bool:
    """Return whether a claim is a file, as each owner creates it: not a folder or a link."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False
    except OSError:  # the file server may be away for a while
        return True


def _is_same_process(owner: Owner, observer: Owner) -> bool:
    is_same_pid = owner.pid == observer.pid and owner.pid_started == observer.pid_started
    return is_same_pid and owners.is_neighbor(owner, observer)


def _read_owner(path: Path) -> Owner | None:
    try:
        return Owner.model_validate(orjson.loads(read_file(path)))
    except (OSError, ValueError, ValidationError):
        return None


def silence_s(path: Path) -> float | None:
    """Return the seconds since the last heartbeat of a claim, by the file server's clock.

    None if this process cannot write next to it, which is needed to read that clock.
    """
    clock = path.with_name(f"0.{secrets.token_hex(8)}{TEMPORARY}")
    try:
        # First the clock, then the heartbeat: an observer that is stopped in between is no reason
        # to take the owner for dead.
        with open(clock, "xb") as file:
            os.utime(clock)
            server_now = os.fstat(file.fileno()).st_mtime
        with open_file(path) as file:  # opening asks the server; a cache may answer `stat`
            return server_now - os.fstat(file.fileno()).st_mtime
    except OSError:
        return None
    finally:
        with contextlib.suppress(OSError):
            clock.unlink(missing_ok=True)


class _Heart:
    """The claims that this process holds, and the thread that shows that it lives."""

    def __init__(self) -> None:
        self._held: set[tuple[str, int]] = set()
        self._lock = threading.Lock()
        self.taking = threading.RLock()
        self._thread: threading.Thread | None = None

    def add(self, fence: Fence) -> None:
        with self._lock:
            self._held.add(_key(fence))
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, daemon=True)
                self._thread.start()

    def remove(self, fence: Fence) -> None:
        with self._lock:
            self._held.discard(_key(fence))

    def holds(self, fence: Fence) -> bool:
        return _key(fence) in self._held

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT_S)
            with self._lock:
                held = list(self._held)
            for folder, number in held:
                with contextlib.suppress(OSError):  # the file server may be away for a while
                    Fence(Path(folder), number).beat()


_HEARTS: dict[int, _Heart] = {}  # by process id: a forked child has no thread of its parent


def _heart() -> _Heart:
    return _HEARTS.setdefault(os.getpid(), _Heart())


def _key(fence: Fence) -> tuple[str, int]:
    return os.path.realpath(fence.folder), fence.number
