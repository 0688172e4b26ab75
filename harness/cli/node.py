"""`_node`: run the ranks of one node of a run that several nodes train. srun starts one on each."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer


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

    The exit code of node 0 says how the run ended. Other nodes end with 0.
    """
    from harness.launch.stop import NODE_SIGNALS, Stop

    stop = Stop()
    with stop.on_signals(NODE_SIGNALS, interrupts=False):
        code = _run_node(run, claim, stop, index, nodes, endpoint, rendezvous_id)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread of torchrun's engine may wait for a node that is gone


def _run_node(
    path: Path, claim: int, stop: "Stop", index: int, count: int, endpoint: str, attempt: str
) -> int:
    from harness.errors import ExitCode
    from harness.launch import agent
    from harness.launch.nodes import Nodes
    from harness.results.store import Run

    run = Run(path, claim)
    nodes = Nodes(index, count, endpoint, attempt)
    agent.start(run, run.spec.launch, stop=stop, nodes=nodes)
    return 0
