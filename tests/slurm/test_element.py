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
from harness.results.store import Run, Store

pytestmark = [pytest.mark.slurm, pytest.mark.distributed]
DDP = '[{ variant = "ddp", nproc = 2 }]'


class Submitted:
    """A study of one run whose steps are slow until `fast` exists, in the queue of a cluster."""

    def __init__(self, cluster: Cluster, harness: Harness, *options: str, parallelism: str) -> None:
        self.cluster = cluster
        self.fast = harness.folder / "fast"
        study = harness.study('["slow"]', parallelism=parallelism)
        is_slow = f"self.training and not os.path.exists({str(self.fast)!r})"
        harness.variant("slow", f"time.sleep(0.05 if {is_slow} else 0.0)")
        with contextlib.chdir(harness.folder), mock.patch.dict(os.environ, harness.env):
            planned = load_study(study, ["train.steps=40"], None, None)
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
        arguments = [f"--output={self.log}", "--open-mode=append", "--requeue", *options]
        output = cluster.call("sbatch", "--parsable", "--array=0", *arguments, str(script))
        self.job = f"{output.strip()}_0"

    def wait_for_steps(self, n_steps: int) -> None:
        wait_until(lambda: len(self.run.steps()) >= n_steps or self._has_ended(), "it trains")
        assert self.run.status.status == "running", self.log.read_text() + self.text()

    def text(self) -> str:
        return "\n".join(self.run.log_tail(40))

    def _has_ended(self) -> bool:
        return self.run.status.status in ("done", "failed")


def losses(run: Run) -> list[float]:
    assert run.status.status == "done", "\n".join(run.log_tail(40))
    return run.steps().loss.tolist()


@pytest.fixture(scope="module")
def nodes(make_cluster) -> Cluster:
    """Return a cluster of two hosts, each with its own network and process ids."""
    return make_cluster(apart=True)


@pytest.fixture
def submit(nodes, tmp_path):
    harnesses = []

    def start(*options: str, parallelism: str = '["single"]') -> Submitted:
        folder = tmp_path / str(len(harnesses))
        folder.mkdir()
        harnesses.append(Harness(folder))
        return Submitted(nodes, harnesses[-1], *options, parallelism=parallelism)

    yield start
    nodes.call("scancel", "--quiet", "--user=root")
    for harness in harnesses:
        harness.stop()


@pytest.mark.parametrize(
    ("parallelism", "options"),
    [('["single"]', []), (DDP, ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1"])],
    ids=["one-node", "two-nodes"],
)
def test_a_requeued_run_ends_as_an_undisturbed_one(nodes, submit, parallelism, options):
    whole = submit(*options, parallelism=parallelism)
    whole.fast.touch()
    nodes.wait_until_empty()
    expected = losses(whole.run)
    requeued = submit(*options, parallelism=parallelism)
    requeued.wait_for_steps(3)
    nodes.call("scontrol", "requeue", requeued.job)
    wait_until(lambda: requeued.run.status.status == "interrupted", "it has saved")
    requeued.fast.touch()
    nodes.wait_until_empty()
    assert losses(requeued.run) == expected
    assert requeued.run.probes.resumed_at[0] >= 3 and requeued.run.status.attempts == 2


def test_a_cancelled_run_saves_and_stays_away(nodes, submit):
    cancelled = submit()
    cancelled.wait_for_steps(3)
    nodes.call("scancel", cancelled.job)
    nodes.wait_until_empty()
    n_done = len(cancelled.run.steps())
    status = cancelled.run.status
    assert status.status == "interrupted" and f"after {n_done} of 40 steps" in status.message
