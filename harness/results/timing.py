"""Whether a run has its machine to itself: what starts a rank says so in its environment."""

import os

from harness.results.records.status import Timing

VARIABLE = "ABLATIONS_TIMING"


def timing_of_process() -> Timing:
    """Return `shared` if another run may run on this machine, else `exclusive`."""
    return "shared" if os.environ.get(VARIABLE) == "shared" else "exclusive"


def variable(timing: Timing) -> dict[str, str]:
    """Return the variable of the environment by which a process that is started knows it."""
    return {VARIABLE: timing}
