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


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def _set_stream(name: str) -> Callable[[object], None]:
    return lambda value: setattr(sys, name, value)


ITEMS = (
    _Item("the present folder (os.chdir)", _folder, os.chdir),
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
    changes = Changes()
    with activity.doing(doing), _restored(changes.names):
        yield changes


@contextlib.contextmanager
def _restored(changes: list[str]) -> Iterator[None]:
    """Restore the state of the process at the end; add the names of what had changed."""
    before = [item.read() for item in ITEMS]
    built_in = dict(vars(builtins))
    pid = os.getpid()
    copies = {fd: _copy(fd) for fd in STREAMS}
    try:
        yield
    finally:
        if os.getpid() != pid:  # the code has forked: its copy must not continue as this program
            os._exit(0)
        for fd, copy in copies.items():
            if copy is None:
                continue
            if not _is_same(fd, copy):
                os.dup2(copy, fd)
                changes.append(f"the file of {STREAMS[fd]} (descriptor {fd})")
            os.close(copy)
        for name, value in built_in.items():
            if vars(builtins).get(name) is not value:
                setattr(builtins, name, value)
                changes.append(f"the built-in {name}")
        for item, value in zip(ITEMS, before, strict=True):
            if item.read() != value:
                item.restore(value)
                changes.append(item.name)


def _copy(fd: int) -> int | None:
    try:
        return os.dup(fd)
    except OSError:
        return None


def _is_same(fd: int, copy: int) -> bool:
    try:
        return os.path.sameopenfile(fd, copy)
    except OSError:
        return False
