"""Without these, a run of two nodes that ends early could lose its state, or hang."""

import pytest
from slurm_cluster import Cluster, wait_until
from slurm_login import Login, curves

from harness.results.run import Run

pytestmark = [pytest.mark.slurm, pytest.mark.distributed]

DDP = '[{ variant = "ddp", nproc = 2 }]'
TRAIN = ["train.steps=40", "train.tokens_per_step=256", "train.eval_every=20"]
SETTINGS = [
    *TRAIN,
    "launch.checkpoint_every=5",
    "launch.stall_timeout_s=8",
    "launch.slurm.time=00:20:00",
    "launch.slurm.processes_per_node=1",
]


@pytest.fixture(scope="module")
def cluster(make_cluster) -> Cluster:
    """Return a cluster of two hosts, each with its own network and process ids."""
    return make_cluster(apart=True)


def wait_for_steps(login: Login, run: Run, job: str, n_steps: int) -> None:
    ended = ("done", "failed")
    wait_until(
        lambda: len(run.steps()) >= n_steps or run.status.status in ended, f"{n_steps} steps"
    )
    text = login.element_log(job) + "\n".join(run.log_tail(40))
    assert run.status.status == "running", text


def submit(login: Login) -> tuple[str, Run]:
    """Submit a slow run of two nodes; return its job and the run when it has trained."""
    study = login.study('["slow"]', parallelism=DDP)
    login.slow_variant(seconds=0.3)
    login("run", study, "--on=slurm", "--no-wait", settings=SETTINGS)
    (job,) = login.elements()
    (run,) = login.runs()
    wait_for_steps(login, run, job, 3)
    return job, run


def test_two_nodes_come_back_after_usr1_and_a_cut_link(login):
    """The run ends as an undisturbed one on one host."""
    cluster = login.cluster
    job, run = submit(login)
    cluster.call("scancel", "--batch", "--signal=USR1", job)
    wait_until(lambda: "back in the queue" in login.element_log(job), "it has saved")
    wait_until(lambda: cluster.start_requeued() or run.status.attempts == 2, "it is back")
    wait_for_steps(login, run, job, 12)
    cluster.cut("n2")
    wait_until(lambda: run.status.status != "running", "the cut is found")
    status = run.status
    cluster.heal("n2")
    assert (status.status, status.reason) == ("failed", "lost"), status.message
    cluster.call("scancel", job)
    cluster.wait_until_empty()
    (login.folder / "fast").touch()
    study = login.folder / "study.toml"
    login("run", study, "--on=slurm", settings=SETTINGS)
    assert (run.status.status, run.status.attempts) == ("done", 3)
    assert run.probes.resumed_at[0] >= 3
    login.run_locally(study, settings=TRAIN)
    assert curves(login.folder / "results") == curves(login.folder / "local")


def test_a_cancelled_run_of_two_nodes_saves_and_stays_away(login):
    job, run = submit(login)
    login.cluster.call("scancel", job)
    login.cluster.wait_until_empty()
    n_done = len(run.steps())
    status = run.status
    assert status.status == "interrupted" and f"after {n_done} of 40 steps" in status.message
