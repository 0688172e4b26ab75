"""The command line on the login node of a cluster."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from command_line import Harness
from slurm_cluster import Cluster

from harness import config
from harness.launch.slurm.submit import submit
from harness.results.records import Submission
from harness.results.run import Run
from harness.results.store import Store


class Login(Harness):
    """The command line in a folder of its own, with Slurm's commands of a cluster."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        super().__init__(folder)
        self.cluster = cluster
        self.env |= {name: cluster.env[name] for name in ("SLURM_CONF", "PATH")}
        self.notes: list[str] = []

    def submit(
        self, study: Path, *settings: str, seeds: Sequence[int] | None = None
    ) -> list[Submission]:
        """Submit all runs of a study."""
        with contextlib.chdir(self.folder), mock.patch.dict(os.environ, self.env):
            planned = config.load(study, ["launch.on=slurm", *settings], seeds)
            store = Store(self.folder / "results")
            slurm = planned.launch.slurm
            return submit(store, planned.name, planned.runs, slurm, self.notes.append)

    def run_locally(self, study: Path, *options: str) -> None:
        """Train a study into the results folder `local`, with one thread as jobs of one core."""
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        try:
            self("run", study, "--results=local", *options)
        finally:
            os.sched_setaffinity(0, cores)

    def slow_variant(self, name: str = "slow", seconds: float = 0.3) -> Path:
        """Add a positional variant that sleeps in training until the returned file exists."""
        fast = self.folder / "fast"
        is_slow = f"self.training and not os.path.exists({str(fast)!r})"
        self.variant(name, f"time.sleep({seconds} if {is_slow} else 0.0)")
        return fast


def curves(results: Path, study: str = "s") -> dict[str, object]:
    """Return what the runs of a study have recorded that does not depend on time, by run id."""
    return {run.run_id: _curve(run) for run in Store(results).runs(study)}


def _curve(run: Run) -> object:
    steps = run.steps()
    evals = [(line.step, line.val_loss) for line in run.evals()]
    return steps.step.tolist(), steps.loss.tolist(), steps.grad_norm.tolist(), evals
