"""Without these, a job that ends early could lose its state, come back wrongly, or hang."""

import contextlib
import os
import sys
from pathlib import Path
from unittest import mock

import pytest
from command_line import Harness
from slurm_cluster import Cluster, wait_until

from harness.cli.studies import load_study
from harness.launch import scheduler
from harness.results.records import Submission
from harness.results.store import Store

SETTINGS = ("train.steps=40", "launch.checkpoint_every=5", "launch.stall_timeout_s=8")
pytestmark = [pytest.mark.slurm, pytest.mark.distributed]
SINGLE = '["single"]'
DDP = '[{ variant = "ddp", nproc = 2 }]'


class Submitted:
    """A study of one run whose steps are slow until `fast` exists, in the queue of a cluster."""

    def __init__(self, cluster: Cluster, harness: Harness, *options: str, parallelism: str) -> None:
        self.cluster = cluster
        self.harness = harness
        self.fast = harness.folder / "fast"
        self.study = harness.study('["slow"]', parallelism=parallelism)
        is_slow = f"self.training and not os.path.exists({str(self.fast)!r})"
        harness.variant("slow", f"time.sleep(0.05 if {is_slow} else 0.0)")
        with contextlib.chdir(harness.folder), mock.patch.dict(os.environ, harness.env):
            planned = load_study(self.study, list(SETTINGS), None, None)
        store = Store(harness.folder / "results")
        scheduler.plan_runs(store, "s", planned.runs, planned.all_run_ids)
        self.run = store.run("s", planned.runs[0].run_id)
        submission = Submission(id="a", name="a", elements=[[self.run.run_id]])
        store.record_submission("s", submission)
        self.log = harness.folder / "element.log"
        script = harness.folder / "job.sh"
        root = Path(__file__).parent.parent.parent
        script.write_text(
            f"#!/bin/bash\nexport PYTHONPATH={root} OMP_NUM_THREADS=1\n"
            f"exec {sys.executable} -P -m harness _element {store.submission_path('s', submission)}"
        )
        outputs = [f"--output={self.log}", "--open-mode=append"]
        self.command = ["sbatch", "--parsable", "--array=0", *outputs, "--requeue", *options]
        self.command.append(str(script))
        self.submit()

    def submit(self) -> None:
        self.job = f"{self.cluster.call(*self.command).strip()}_0"

    def wait_for_steps(self, n_steps: int) -> None:
        wait_until(lambda: len(self.run.steps()) >= n_steps or self._has_ended(), "it trains")
        assert self.run.status.status == "running", self.log.read_text() + self.text()

    def check_that_it_resumes(self, attempts: int = 2) -> None:
        """Check that the run ends with the losses of one that is not disturbed."""
        self.fast.touch()
        self.cluster.wait_until_empty()
        assert self.run.status.status == "done", self.log.read_text() + self.text()
        assert self.run.probes.resumed_at[0] >= 3 and self.run.status.attempts == attempts
        other = ("--results", "undisturbed")
        self.harness("run", self.study, *other, settings=SETTINGS)
        undisturbed = Store(self.harness.folder / "undisturbed").run("s", self.run.run_id)
        assert self.run.steps().loss.tolist() == undisturbed.steps().loss.tolist()

    def text(self) -> str:
        return "\n".join(self.run.log_tail(40))

    def _has_ended(self) -> bool:
        return self.run.status.status in ("done", "failed")


@pytest.fixture(scope="module")
def nodes(make_cluster) -> Cluster:
    """Return a cluster of two hosts, each with its own network and process ids."""
    return make_cluster(apart=True)


@pytest.fixture
def submit(nodes, tmp_path):
    harnesses = []

    def start(*options: str, parallelism: str = SINGLE) -> Submitted:
        folder = tmp_path / str(len(harnesses))
        folder.mkdir()
        harnesses.append(Harness(folder))
        return Submitted(nodes, harnesses[-1], *options, parallelism=parallelism)

    yield start
    nodes.call("scancel", "--quiet", "--user=root")
    for harness in harnesses:
        harness.stop()


NODES = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1"]


def test_two_nodes_come_back_after_usr1_and_a_cut_link(nodes, submit):
    """The run ends as an undisturbed one on one host."""
    disturbed = submit(*NODES, parallelism=DDP)
    disturbed.wait_for_steps(3)
    nodes.call("scancel", "--batch", "--signal=USR1", disturbed.job)
    wait_until(lambda: "back in the queue" in disturbed.log.read_text(), "it has saved")
    wait_until(lambda: nodes.start_requeued() or disturbed.run.status.attempts == 2, "it is back")
    disturbed.wait_for_steps(12)
    nodes.cut("n2")
    wait_until(lambda: disturbed.run.status.status != "running", "the cut is found")
    status = disturbed.run.status
    nodes.heal("n2")
    assert (status.status, status.reason) == ("failed", "lost"), status.message
    nodes.call("scancel", disturbed.job)
    nodes.wait_until_empty()
    disturbed.submit()
    disturbed.check_that_it_resumes(attempts=3)


def test_a_cancelled_run_of_two_nodes_saves_and_stays_away(nodes, submit):
    cancelled = submit(*NODES, parallelism=DDP)
    cancelled.wait_for_steps(3)
    nodes.call("scancel", cancelled.job)
    nodes.wait_until_empty()
    n_done = len(cancelled.run.steps())
    status = cancelled.run.status
    assert status.status == "interrupted" and f"after {n_done} of 40 steps" in status.message
