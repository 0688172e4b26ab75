"""Let a rank print into the log of its run."""

import os
import platform
import sys

from harness.results.run import Run


def print_into_log(run: Run) -> None:
    """Append what this rank prints to the log; a host other than that of rank 0 has its own."""
    is_on_first_host = os.environ.get("GROUP_RANK", "0") == "0"
    log = run.open_log(None if is_on_first_host else platform.node())
    sys.stdout.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
