"""`_worker`: run one rank. A torchrun command starts it: `torchrun ... -m harness _worker SPEC`."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import psutil
import typer

from harness.cli.isolation import isolate
from harness.errors import UserError
from harness.launch.parent import parent_death_signal


def worker(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The spec.json of a run.")],
) -> None:
    """Run one rank of a run, in a process that torchrun started.

    The exit code is 0 if the run is done, 1 if it failed, 3 if another process trains it, 75 if it
    is to be started again, and 130 if it was stopped.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        raise UserError(
            "RANK and WORLD_SIZE are not set: torchrun starts this command, "
            f"`torchrun --standalone --nproc-per-node N -m harness _worker {spec}`"
        )
    end_with_parent()
    if _has_variants(spec):
        isolate()
    from harness.provenance.contents import shipped_contents

    loaded = shipped_contents()
    from harness.training.main import run_worker

    run_worker(spec.parent, None, loaded)


def _has_variants(spec: Path) -> bool:
    """Return whether the spec of a run names folders of the user's variants."""
    try:
        return bool(json.loads(spec.read_bytes())["launch"]["variant_paths"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False  # reading the run reports it


def end_with_parent() -> None:
    """Let the system send this process SIGTERM when its parent ends; only Linux can.

    A torchrun that is killed would leave its ranks behind. Of a parent that has ended before, this
    process is an orphan: it ends at once.
    """
    if sys.platform != "linux":
        return
    parent_death_signal(signal.SIGTERM)()
    if os.getppid() == 1 and not _is_launcher(1):
        raise typer.Exit(128 + signal.SIGTERM)


def _is_launcher(pid: int) -> bool:
    """Return whether a process may have started ranks: torchrun may be a container's first."""
    try:
        return "torch" in " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return False
