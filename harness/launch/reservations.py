"""Devices and cores of this machine that a launch has taken, so that no other one takes them too.

A reservation is a claim (`harness.results.claims`) in a folder of this machine and user: it ends
with its process. A launch of another user, or with another `ABLATIONS_CACHE`, is not seen.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness.results import claims, owner
from harness.results.claims import Fence

LAUNCH = "launch-"  # prefix of the folders that show that a launch is present


class Reservations:
    """What one launch has reserved: `with Reservations() as reservations:`."""

    def __init__(self) -> None:
        self._folder = _folder()
        self._stack = ExitStack()
        self._name = f"{LAUNCH}{os.getpid()}-{secrets.token_hex(4)}"

    def __enter__(self) -> "Reservations":
        self._stack.enter_context(self._present())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def _present(self) -> Iterator[None]:
        """Show other launches that this one is there."""
        folder = self._folder / self._name
        fence = claims.take(folder)
        try:
            yield
        finally:
            if fence is not None:
                fence.release()
            shutil.rmtree(folder, ignore_errors=True)

    def has_neighbors(self) -> bool:
        """Return whether another launch of this user runs on this machine."""
        found = False
        for folder in self._folder.glob(f"{LAUNCH}*"):
            if folder.name == self._name:
                continue
            if claims.owner_of(folder) is not None:
                found = True
            elif any(folder.glob("*.json")):  # its process was killed
                shutil.rmtree(folder, ignore_errors=True)
        return found

    def is_free(self, name: str) -> bool:
        """Return whether no launch, this one included, has reserved a device or a core."""
        return claims.owner_of(self._folder / _file_name(name)) is None

    def take(self, names: Iterable[str]) -> Callable[[], None] | None:
        """Reserve all of these; return the function that frees them, None if one is taken.

        They are freed at the end of the launch at the latest.
        """
        fences: list[Fence] = []

        def free() -> None:
            while fences:
                fences.pop().release()

        for name in sorted(names):
            fence = claims.take(self._folder / _file_name(name))
            if fence is None:
                free()
                return None
            fences.append(fence)
        self._stack.callback(free)
        return free


def _file_name(name: str) -> str:
    return name.replace("/", "_")


def _folder() -> Path:
    """Return the folder of the reservations of this machine, since its start, and this user."""
    root = os.environ.get("ABLATIONS_CACHE")
    if not root:
        user = os.getuid() if hasattr(os, "getuid") else os.getlogin()
        root = os.path.join(tempfile.gettempdir(), f"ablations-{user}")
    return Path(root) / "reserved" / owner.this_process().boot_id
