"""Log the file-system operations of a process, and kill the process at one of them.

`install` wraps the functions that change files: those of `os`, `open`, and `save_file` of
safetensors. The operations of a launcher and of its ranks on files in the folder of the environment
variable CRASH_FOLDER count. Each has a role (`launcher`, `rank0`, ...), the kind of its thread, one
of the folders WATCHED, and a number within these, which are the same in each run of one study.

Two files in that folder control the wrappers: operations are appended to `operations.jsonl` if it
exists, and `armed.json` is the point at which to kill. A process reads it at its first operation.
"""

import builtins
import io
import json
import os
import re
import shutil  # noqa: F401 - it looks for functions of `os` that take folders when it is imported
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

FOLDER = "CRASH_FOLDER"
WATCHED = ("stores", "cache")  # folders in it
OPERATIONS = "operations.jsonl"
ARMED = "armed.json"
FIRED = "fired"
LAUNCHER = "launcher.pid"
FOREGROUND = "foreground"

ONE_PATH = ("unlink", "remove", "mkdir", "rmdir", "truncate")
TWO_PATHS = ("replace", "rename", "link", "symlink")
FLUSHES = ("fsync", "fdatasync")
FILES = (*FLUSHES, "ftruncate", "write")  # by file descriptor
TORN = ("write", "save_file")  # a crash may leave a part of what they write
WRITING = re.compile("[wax+]")
HEX = re.compile("[0-9a-f]{8,}")

_lock = threading.Lock()
_launcher_pid: int | None = None
_os_write = os.write
_os_open = os.open
_kill = os.kill


class _Process:
    """What this process does: its role, its counts of operations, and where it is to be killed."""

    def __init__(self, pid: int, role: str) -> None:
        self.pid = pid
        self.role = role
        self.folder = Path(os.environ[FOLDER])
        self.watched = tuple(f"{self.folder / name}{os.sep}" for name in WATCHED)
        self.counts: Counter[tuple[str, str]] = Counter()
        armed = self.folder / ARMED
        self.armed = json.loads(_read(armed)) if armed.exists() else {}


_process: _Process | None = None


def _read(path: Path) -> bytes:
    """Return the content of a file; `open` and `os.open` are wrapped."""
    fd = _os_open(path, os.O_RDONLY)
    content = os.read(fd, 1 << 16)
    os.close(fd)
    return content


def install() -> None:
    """Wrap the functions, in this process and in those that are forked from it."""
    from safetensors import torch as safetensors_torch

    for name in ONE_PATH:
        _replace(os, name, _paths_of_one)
    for name in TWO_PATHS:
        _replace(os, name, _paths_of_two)
    for name in FILES:
        _replace(os, name, _path_of_fd)
    _replace(os, "open", _path_of_os_open)
    _replace(builtins, "open", _path_of_open)
    io.open = builtins.open
    _replace(safetensors_torch, "save_file", lambda tensors, path, *_, **__: [path])


def begin_launcher() -> None:
    """Make this process the launcher."""
    global _launcher_pid  # noqa: PLW0603 - one process has one role
    _launcher_pid = os.getpid()
    Path(os.environ[FOLDER], LAUNCHER).write_text(str(_launcher_pid))


def _replace(module: object, name: str, paths_of: Callable) -> None:
    original = getattr(module, name)

    def wrapper(*args, **kwargs):
        process = _this_process()
        if process is None:
            return original(*args, **kwargs)
        paths = [_absolute(path) for path in paths_of(*args, **kwargs)]
        if not any(path.startswith(process.watched) for path in paths):
            return original(*args, **kwargs)
        side = _count(process, name, paths)
        if side == "before":
            _crash(process)
        if side == "torn":
            _write_half(original, name, args, kwargs)
            _crash(process)
        try:
            # A process that is killed loses nothing that it has written: flushing only takes time.
            return None if name in FLUSHES else original(*args, **kwargs)
        finally:
            if side == "after":
                _crash(process)

    for group in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
        if original in group:
            group.add(wrapper)
    setattr(module, name, wrapper)


def _this_process() -> _Process | None:
    """Return what is known of this process; None if it is neither a launcher nor a rank."""
    global _process  # noqa: PLW0603 - one process has one role
    pid = os.getpid()
    if pid == _launcher_pid:
        role = "launcher"
    elif _launcher_pid is None and "RANK" in os.environ:
        role = f"rank{os.environ['RANK']}"
    else:
        return None
    with _lock:
        if _process is None or _process.pid != pid:
            _process = _Process(pid, role)
        return _process


def _count(process: _Process, name: str, paths: list[str]) -> str | None:
    """Count an operation; return on which side of it the process is to be killed, if it is."""
    thread = re.sub("[^a-z]+", " ", threading.current_thread().name.lower()).strip()
    relative = [os.path.relpath(path, process.folder) for path in paths]
    area = relative[0].split(os.sep)[0]
    with _lock:
        number = process.counts[thread, area]
        process.counts[thread, area] += 1
    place = HEX.sub("#", " ".join(relative))
    operation = {
        "role": process.role,
        "thread": thread,
        "area": area,
        "number": number,
        "kind": name,
    }
    log = process.folder / OPERATIONS
    if log.exists():
        line = json.dumps(operation | {"place": place}) + "\n"
        fd = _os_open(log, os.O_WRONLY | os.O_APPEND)
        _os_write(fd, line.encode())
        os.close(fd)
    armed = process.armed
    if operation.items() <= armed.items():
        return armed["side"]
    return None


def _write_half(original: Callable, name: str, args: tuple, kwargs: dict) -> None:
    if name == "write":
        fd, data = args
        original(fd, data[: len(data) // 2])
        return
    original(*args, **kwargs)
    with io.FileIO(args[1], "r+") as file:
        file.truncate(file.seek(0, os.SEEK_END) // 2)


def _crash(process: _Process) -> None:
    fd = _os_open(process.folder / FIRED, os.O_WRONLY | os.O_CREAT)
    os.close(fd)
    if process.armed["scope"] == "machine":
        pid = int(_read(process.folder / LAUNCHER))
        if pid != process.pid:
            _kill(pid, signal.SIGKILL)
    _kill(process.pid, signal.SIGKILL)


# -- paths of a call -------------------------------------------------------------------------------


def _absolute(path: object) -> str:
    return os.path.abspath(os.fsdecode(path))


def _in_folder(path: object, dir_fd: int | None) -> object:
    if dir_fd is None:
        return path
    return os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), os.fsdecode(path))


def _paths_of_one(path, *_, dir_fd=None, **__):
    return [_in_folder(path, dir_fd)]


def _paths_of_two(src, dst, *_, src_dir_fd=None, dst_dir_fd=None, **__):
    return [_in_folder(dst, dst_dir_fd), _in_folder(src, src_dir_fd)]


def _path_of_fd(fd, *_):
    number = fd if isinstance(fd, int) else fd.fileno()
    return [os.readlink(f"/proc/self/fd/{number}")]


def _path_of_os_open(path, flags, *_, dir_fd=None, **__):
    return [_in_folder(path, dir_fd)] if flags & (os.O_WRONLY | os.O_RDWR) else []


def _path_of_open(file, mode="r", *_, **__):
    return [file] if WRITING.search(mode) and not isinstance(file, int) else []


if FOLDER in os.environ:  # the fork server imports this module before it loads the harness
    install()
