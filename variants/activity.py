"""Activities of the code of variants, for a process that watches this one.

Such code may end its process in the middle of a call: `os._exit`, a signal, a crash of a library.
"""

import contextlib
from collections.abc import Callable, Iterator

_listeners: list[Callable[[str], None]] = []
_present = [""]  # the innermost one last


def listen(listener: Callable[[str], None]) -> None:
    """Call `listener` with each activity that begins, or continues after an inner one."""
    _listeners.append(listener)


@contextlib.contextmanager
def doing(activity: str) -> Iterator[None]:
    """Report an activity while the context lasts."""
    _present.append(activity)
    _report()
    try:
        yield
    finally:
        _present.pop()
        _report()


def _report() -> None:
    for listener in _listeners:
        listener(_present[-1])
