"""Backends: ways to start runs and to wait for them, on this machine or elsewhere."""

from collections.abc import Sequence
from typing import Protocol

from harness.errors import ExitCode
from harness.results.records import RunSpec
from harness.results.store import Store


class Stopped(Exception):
    """The user stopped the command; the message says what continues and how to resume.

    `code` is the exit code of the command.
    """

    def __init__(self, message: str, code: ExitCode = ExitCode.INTERRUPTED) -> None:
        super().__init__(message)
        self.code = code


class Backend(Protocol):
    """Start runs and wait until all have ended or cannot start. Whether one is done says the store.

    A run that fails does not stop the others, unless `fail_fast`.
    """

    def run_all(self, store: Store, specs: Sequence[RunSpec], fail_fast: bool) -> None:
        """Run the specs, in the given order as far as the backend decides about it.

        Raises:
            Stopped: the user stopped the command.
        """
