"""Errors of a system whose limits are reached: a full disk, too many open files or processes."""

import errno
import os

from variants.errors import full_text

# Texts of PyTorch, of safetensors, and of C libraries.
NO_THREAD = "can't start new thread"  # Python's text
MORE_PROCESSES = "raise the limit of processes and threads of this user, `ulimit -u`"
TOO_MANY_FILES = os.strerror(errno.EMFILE)
MORE_FILES = "raise the limit of open files, `ulimit -n 1024`"
DISK_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "unexpected pos ")


def is_disk_full(error: BaseException) -> bool:
    """Return whether a write failed for lack of space, or of quota; libraries say so in a text.

    An error that was raised from another one has the cause of that one.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if any(text in full_text(error) for text in DISK_FULL):
        return True
    return error.__cause__ is not None and is_disk_full(error.__cause__)


def is_of_a_file(error: OSError) -> bool:
    """Return whether one file is the cause, such as a folder in its place, and no other is hurt."""
    is_resource = is_disk_full(error) or error.errno in (errno.EMFILE, errno.ENFILE)
    return error.filename is not None and not is_resource


def remedy_of(error: BaseException) -> str:
    """Return what follows the text of an error: a remedy if a limit is reached, or nothing."""
    if is_without_process(error):
        return f"; {MORE_PROCESSES}"
    return f"; {MORE_FILES}" if TOO_MANY_FILES in full_text(error) else ""


def is_without_process(error: BaseException) -> bool:
    """Return whether the system allows no more processes or threads."""
    if isinstance(error, BlockingIOError):  # of fork
        return error.errno == errno.EAGAIN
    return isinstance(error, RuntimeError) and NO_THREAD in error.args
