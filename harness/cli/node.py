"""`_node`: run the ranks of one node of a run that several nodes train. srun starts one on each."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.output import log
from harness.errors import ClaimLost, ExitCode
from harness.launch.nodes import Nodes
from harness.launch.slots import Slot
from harness.launch.stop import COME_BACK, IN_JOB, Stop
from harness.results.run import Run
from harness.results.timing import timing_of_process


def node(
    run: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="The folder of the run.")],
    claim: Annotated[int, typer.Option("--claim", help="The number of the claim of the run.")],
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="The number of nodes.")],
    endpoint: Annotated[
        str, typer.Option("--endpoint", help="HOST:PORT, a free port of node 0.", metavar="ADDRESS")
    ],
    rendezvous_id: Annotated[
        str, typer.Option("--id", help="A name of this attempt, the same on all nodes.")
    ],
    index: Annotated[
        int,
        typer.Option("--index", envvar="SLURM_NODEID", min=0, help="The number of this node."),
    ],
) -> None:
    """Run the ranks of one node of a run; node 0 records how it ended.

    The exit code of node 0 says how the run ended: 0 done, 1 failed, 75 to be started again, 130
    stopped. The other nodes end with 0, so that srun does not stop node 0 before it has recorded
    the failure.
    """
    stop = Stop()
    with stop.on_signals(IN_JOB, interrupts=False):
        code = _run_node(Run(run, claim), Nodes(index, nodes, endpoint, rendezvous_id), stop)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread of torchrun's engine may wait for a node that is gone


def _run_node(run: Run, nodes: Nodes, stop: Stop) -> ExitCode:
    from harness.launch import agent

    slot = Slot(timing=timing_of_process())
    try:
        agent.start(run, run.spec.launch, slot, stop, nodes)
    except ClaimLost as error:
        log(str(error))
        return ExitCode.CLAIM_LOST
    if nodes.index > 0:
        return ExitCode.DONE
    status = run.status.status
    if status == "done":
        return ExitCode.DONE
    if status == "failed":
        return ExitCode.SOME_FAILED
    return ExitCode.REQUEUE if stop.requested in COME_BACK else ExitCode.INTERRUPTED
