"""A limit of the system is distinguished from an error of a run."""

import errno
import os

import pytest

from harness.system_limits import MORE_FILES, MORE_PROCESSES, is_disk_full, remedy_of


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (ValueError("I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("unexpected pos 704 vs 598"), True),
        (RuntimeError("x" * 5000 + "No space left on device"), True),  # of a compiler
        (OSError(errno.EACCES, "x"), False),
        (ValueError("no space"), False),
    ],
)
def test_a_full_disk_is_not_an_error_of_the_run(error, expected):
    """`--retry-failed` would discard its checkpoints."""
    assert is_disk_full(error) is expected
    wrapped = RuntimeError("a state cannot be written")
    wrapped.__cause__ = error
    assert is_disk_full(wrapped) is expected


class NoText(Exception):
    def __str__(self):
        raise ValueError


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), f"; {MORE_FILES}"),
        (RuntimeError("can't start new thread"), f"; {MORE_PROCESSES}"),
        (BlockingIOError(errno.EAGAIN, "x"), f"; {MORE_PROCESSES}"),
        (ValueError("x"), ""),
        (NoText(), ""),
    ],
)
def test_a_limit_is_named_with_its_remedy(error, remedy):
    assert remedy_of(error) == remedy
    assert not is_disk_full(error)
