"""What the code of a user's variants does now, for a process that watches this one.

Such code may end its process in the middle of a call: `os._exit`, a signal, a crash of a library.
"""

import contextlib
from collections.abc import Callable, Iterator

_listeners: list[Callable[[str], None]] = []


def listen(listener: Callable[[str], None]) -> None:
    """Call `listener` with each activity when it begins, and with "" when it ends."""
    _listeners.append(listener)


@contextlib.contextmanager
def doing(activity: str) -> Iterator[None]:
    """Report an activity while the context lasts."""
    _report(activity)
    try:
        yield
    finally:
        _report("")


def _report(activity: str) -> None:
    for listener in _listeners:
        listener(activity)
