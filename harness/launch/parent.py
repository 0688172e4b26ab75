"""Tie the life of a process to that of its parent."""

import ctypes
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


def parent_death_signal(number: signal.Signals) -> Callable[[], None]:
    """Return a function by which a process asks for a signal at the end of its parent.

    It may run between fork and exec, as it loads nothing. Only Linux sends such a signal; on other
    systems the function has no effect.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def ask() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, number)

    return ask
