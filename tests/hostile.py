"""What hostile inputs have in common: damages of a file, and a command that must end soon.

`FUZZ=5000` tries all cases of a test that takes a sample of them.
"""

import contextlib
import io
import os
import random
import shutil
import signal
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from harness.cli.app import main
from harness.printable import printable

# The shipped variant of each axis that a variant of the user derives from.
BASES = {
    "positional": "learned import Learned",
    "attention": "mha import MultiHead",
    "norm": "layernorm import LayerNorm",
    "mlp": "gelu import Gelu",
    "optimizer": "adamw import AdamW",
    "parallelism": "single import Single",
}
# A small study of two entries and two seeds.
STUDY = """
[study]
name = "s"
seeds = [0, 1]
[model]
n_layer = 1
n_head = 4
n_embd = 32
seq_len = 16
[data]
corpus = "text.txt"
[train]
steps = 4
tokens_per_step = 128
device = "cpu"
[axes]
positional = ["learned", "rope"]
"""
LIMIT_S = 300  # of a test machine that is busy: a pipe that is opened would wait forever
FUZZ = int(os.environ.get("FUZZ", "0"))


def sample(cases: Collection[str], n: int = 12) -> list[str]:
    """Return so many of the cases; each process of the tests must collect the same."""
    return random.Random(0).sample(sorted(cases), min(FUZZ or n, len(cases)))


@contextlib.contextmanager
def ends_soon(what: object):
    """Fail the test if what is within does not end."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"{what} does not end"))
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def call(*command: object) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a command; fail if it does not end or has a bug."""
    out, err = io.StringIO(), io.StringIO()
    with (
        ends_soon(command),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        main([str(part) for part in command])
    assert "Traceback" not in out.getvalue() + err.getvalue(), (command, err.getvalue())
    assert end.value.code is not None
    return int(end.value.code), out.getvalue(), err.getvalue()


def is_clean(text: str) -> bool:
    """Return whether a terminal shows a text as it is: without controls, in their order."""
    return printable(text) == text


def _relink(target: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return damage


def _replace(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def _edit(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


# Whatever a path may hold instead of the file that belongs there.
DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": lambda path: path.unlink(),
    "empty": _edit(lambda content: b""),
    "half": _edit(lambda content: content[: len(content) // 2]),
    "first byte": _edit(lambda content: content[:1]),
    "zeros": _edit(lambda content: bytes(len(content))),
    "zeros at the end": _edit(lambda content: content + bytes(512)),
    "binary": _edit(lambda content: bytes(range(256)) * 4),
    "Latin-1": _edit(lambda content: b'{"\xe9": "\xff"}\n'),
    "deep list": _edit(lambda content: b"[" * 100_000 + b"]" * 100_000 + b"\n"),
    "deep table": _edit(lambda content: b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"\n"),
    "long number": _edit(lambda content: b'{"schema_version": ' + b"9" * 5_000 + b"}\n"),
    "NaN": _edit(lambda content: b'{"schema_version": NaN}\n'),
    "null": _edit(lambda content: b"null\n"),
    "list": _edit(lambda content: b"[]\n"),
    "another version": _edit(lambda content: b'{"schema_version": 999}\n'),
    "HTML": _edit(lambda content: b"<!doctype html><title>404</title>\n"),
    "folder": _replace(lambda path: path.mkdir()),
    "pipe": _replace(os.mkfifo),
    "loop": lambda path: _relink(path.name)(path),
    "dangling link": _relink("nowhere"),
    "device": _relink("/dev/ptmx"),  # to read it waits; /dev/zero would fill the memory first
    "unreadable": _relink("/proc/self/mem"),  # a regular file whose bytes cannot be read
}


@contextlib.contextmanager
def restored(path: Path):
    """Restore a file after it was damaged."""
    content = path.read_bytes()
    try:
        yield
    finally:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
