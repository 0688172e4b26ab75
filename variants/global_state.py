"""Refuse code of variants that changes the state of the process, which all other code shares.

A default type or a present folder that one variant changes would change the figures of others, and
where results are written.
"""

import builtins
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from variants import activity

STREAMS = {0: "stdin", 1: "stdout", 2: "stderr"}


@dataclass(frozen=True)
class _Item:
    """A part of the state: its name, the function that reads it, and the one that restores it."""

    name: str
    read: Callable[[], object]
    restore: Callable[..., object]


def _set_stream(name: str) -> Callable[[object], None]:
    return lambda value: setattr(sys, name, value)


ITEMS = (
    _Item("the default type of tensors", torch.get_default_dtype, torch.set_default_dtype),
    _Item("the default device of tensors", torch.get_default_device, torch.set_default_device),
    _Item("PyTorch's number of threads", torch.get_num_threads, torch.set_num_threads),
    _Item("whether gradients are computed", torch.is_grad_enabled, torch.set_grad_enabled),
    _Item(
        "whether algorithms are deterministic",
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    _Item("sys.stdout", lambda: sys.stdout, _set_stream("stdout")),
    _Item("sys.stderr", lambda: sys.stderr, _set_stream("stderr")),
)


@dataclass
class Changes:
    """The parts of the state that code of variants has changed; false without any."""

    names: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.names)

    def __str__(self) -> str:
        """Return the fault that the changes are, and the remedy."""
        return f"changes {', '.join(self.names)}, which all variants share; remove that"


@contextlib.contextmanager
def guarded(doing: str) -> Iterator[Changes]:
    """Report the activity `doing` while code of variants runs; at its end, restore the state.

    The changes are known once the context has ended.
    """
    with activity.doing(doing), restored() as changes:
        yield changes


@contextlib.contextmanager
def restored() -> Iterator[Changes]:
    """Restore the state of the process at the end; the changes are known then."""
    before = [item.read() for item in ITEMS]
    built_in = dict(vars(builtins))
    pid = os.getpid()
    copies = {fd: _copy(fd) for fd in STREAMS}
    folder = _open_folder()
    changes = Changes()
    try:
        yield changes
    finally:
        if os.getpid() != pid:  # the code has forked: its copy must not continue as this program
            os._exit(0)
        for fd, copy in copies.items():
            if copy is None:
                continue
            if not _is_same(fd, copy):
                os.dup2(copy, fd)
                changes.names.append(f"the file of {STREAMS[fd]} (descriptor {fd})")
            os.close(copy)
        if folder is not None:
            if not _is_same(".", folder):
                os.fchdir(folder)
                changes.names.append("the present folder (os.chdir)")
            os.close(folder)
        for name, value in built_in.items():
            if vars(builtins).get(name) is not value:
                setattr(builtins, name, value)
                changes.names.append(f"the built-in {name}")
        for item, value in zip(ITEMS, before, strict=True):
            if item.read() != value:
                item.restore(value)
                changes.names.append(item.name)


def _copy(fd: int) -> int | None:
    try:
        return os.dup(fd)
    except OSError:
        return None


def _open_folder() -> int | None:
    try:
        return os.open(".", os.O_RDONLY)
    except OSError:  # it has been removed
        return None


def _is_same(now: int | str, before: int) -> bool:
    """Return whether a descriptor or a path leads to the open file `before`."""
    try:
        expected = os.fstat(before)
    except OSError:  # of a file server, not of the code
        return True
    try:
        return os.path.samestat(os.stat(now), expected)
    except OSError:
        return False
