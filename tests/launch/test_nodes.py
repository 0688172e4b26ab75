"""Without these, a run of several nodes could be lost with one of their processes, or hang."""

import contextlib
import os
import threading
from unittest import mock

import nodes_here
import psutil
import pytest
from command_line import Harness, all_end, n_saved_steps
from nodes_here import Srun

from harness.cli.studies import load_study
from harness.launch import scheduler
from harness.launch.slurm import steps
from harness.results.store import Store

pytestmark = pytest.mark.distributed

SETTINGS = ["launch.checkpoint_every=1", "launch.stall_timeout_s=600"]
KILLED = ["agent 0", "agent 1", "rank 0", "rank 1"]  # one in each run


class TwoNodes:
    """Runs on two nodes each, one of whose processes is killed after some steps."""

    def __init__(self, harness: Harness, patch: pytest.MonkeyPatch) -> None:
        self.harness = harness
        self.study = harness.study('["slow"]', parallelism='[{ variant = "ddp", nproc = 2 }]')
        self.fast = harness.slow_variant(later_s=1.5)
        seeds = ",".join(map(str, range(len(KILLED))))
        self.options = ("--seeds", seeds)
        with contextlib.chdir(harness.folder), mock.patch.dict(os.environ, harness.env):
            planned = load_study(self.study, SETTINGS, seeds, None)
        store = Store(harness.folder / "results")
        scheduler.plan_runs(store, "s", planned.runs, planned.all_run_ids)
        runs = [store.run("s", run.run_id) for run in planned.runs]
        self.runs = dict(zip(KILLED, runs, strict=True))
        self.sruns: dict[str, Srun] = {}
        self.processes: list[psutil.Process] = []
        patch.setattr(steps, "_first_host", lambda job: nodes_here.HOST)
        patch.setattr(steps, "_start_srun", self._start_srun)

    def train_all(self) -> None:
        """Train each run on two nodes until a process of it is killed and all others have ended."""
        threads = []
        for number, run in enumerate(self.runs.values()):
            claim = run.claim()
            thread = threading.Thread(target=self._train, args=(claim, number))
            thread.start()
            threads.append(thread)
        for name, run in self.runs.items():
            while (n_saved_steps(run) == 0 or len(run.steps()) < 2) and run.status.status in (
                "pending",
                "running",
            ):
                threads[0].join(0.05)
            self._kill(name)
        for thread in threads:
            thread.join()

    def _train(self, claim, number: int) -> None:
        with claim:
            steps.start(claim.run, nodes_here.new_job(number))

    def _start_srun(self, run, job, slot, host) -> Srun:
        srun = Srun(run, job, self.harness.folder, self.harness.env)
        self.sruns[run.run_id] = srun
        return srun

    def _kill(self, name: str) -> None:
        srun = self.sruns[self.runs[name].run_id]
        agents = [psutil.Process(pid) for pid in srun.agents]
        ranks = []
        for agent in agents:
            ranks += [rank for child in agent.children() for rank in child.children()]
        self.processes += agents + ranks
        kind, index = name.split()
        (agents if kind == "agent" else ranks)[int(index)].kill()


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    harness = Harness(tmp_path_factory.mktemp("nodes"))
    with pytest.MonkeyPatch.context() as patch:
        nodes = TwoNodes(harness, patch)
        nodes.train_all()
        yield nodes
    harness.stop()


@pytest.mark.parametrize("killed", KILLED)
def test_a_killed_process_of_a_node_is_a_lost_run(two_nodes, killed):
    status = two_nodes.runs[killed].status
    assert (status.status, status.reason) == ("failed", "lost"), status.message
    assert ("137" if "agent" in killed else f"{killed}: SIGKILL") in status.message
    assert len(two_nodes.runs[killed].steps()) >= 2


def test_lost_runs_of_two_nodes_resume(two_nodes):
    """They end as undisturbed ones on one host do, and leave no process."""
    assert all_end(two_nodes.processes)
    two_nodes.fast.touch()
    for results in ("results", "undisturbed"):
        options = (*two_nodes.options, "--results", results)
        two_nodes.harness("run", two_nodes.study, *options, settings=SETTINGS)
    undisturbed = Store(two_nodes.harness.folder / "undisturbed")
    for run in two_nodes.runs.values():
        assert run.status.status == "done" and run.probes.resumed_at[0] >= 1
        losses = undisturbed.run("s", run.run_id).steps().loss.tolist()
        assert run.steps().loss.tolist() == losses
