"""`_worker`: run one rank. A torchrun command starts it: `torchrun ... -m harness _worker SPEC`."""

from pathlib import Path
from typing import Annotated

import typer


def worker(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The spec.json of a run.")],
) -> None:
    """Run one rank of a run, in a process that torchrun started."""
    from harness.training.main import run_worker

    run_worker(spec.parent, claim=True)
