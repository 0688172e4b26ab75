"""Ctrl-C while modules are imported."""

import os
import signal
from types import FrameType

from harness.errors import ExitCode

IMPORT = "<frozen importlib._bootstrap>"  # the file of the frames that import a module


def end_on_interrupt() -> None:
    """Let Ctrl-C end this process also during an import; no effect if Ctrl-C is ignored.

    Extension modules, NumPy's among them, discard the KeyboardInterrupt of a module that they
    import, and the command would continue.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename == IMPORT:
            os._exit(ExitCode.INTERRUPTED)  # nothing is started yet, or it ends with this process
        frame = frame.f_back
    raise KeyboardInterrupt
