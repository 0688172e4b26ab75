"""Without these, a study on a cluster could train a run twice, another code, or not at all."""

import signal
import time

import pytest
from slurm_cluster import POLL_S, Cluster, wait_until
from slurm_login import curves

from harness.results.store import Store

pytestmark = [pytest.mark.slurm, pytest.mark.distributed]

MAX_ARRAY = 5
TIME = "launch.slurm.time=00:20:00"


@pytest.fixture(scope="module")
def cluster(make_cluster) -> Cluster:
    return make_cluster(gpus=2, max_array=MAX_ARRAY)


def test_split_arrays_train_each_run_once(login):
    """12 runs in 6 elements, more than one array may have; two of an array at a time."""
    study = login.study('["learned", "rope", "alibi"]')
    packing = ["launch.slurm.per_element=2", "launch.slurm.max_parallel=2"]
    steps = "train.steps=2"
    submissions = login.submit(study, TIME, steps, *packing, seeds=[0, 1, 2, 3])
    assert [len(submission.elements) for submission in submissions] == [MAX_ARRAY, 1]
    most_at_once = 0
    while jobs := login.cluster.active_jobs():
        running = [job.id.partition("_")[0] for job in jobs if job.state == "RUNNING"]
        most_at_once = max(most_at_once, running.count(str(submissions[0].job)))
        time.sleep(POLL_S)
    assert most_at_once == 2
    elements = [element for submission in submissions for element in submission.elements]
    trained = [run_id for element in elements for run_id in element]
    assert len(trained) == 12 and set(trained) == {run.run_id for run in login.runs()}
    assert {(run.status.status, run.status.attempts) for run in login.runs()} == {("done", 1)}
    login.run_locally(study, "--seeds=0", f"--set={steps}")
    local = curves(login.folder / "local")
    cluster_curves = curves(login.folder / "results")
    assert len(local) == 3 and all(
        cluster_curves[run_id] == curve for run_id, curve in local.items()
    )


def test_a_restarted_controller_costs_no_run(login):
    study = login.study('["slow", "learned"]')
    fast = login.slow_variant()
    login.submit(study, TIME, "launch.slurm.per_element=1", seeds=[0, 1])
    wait_until(lambda: any(run.last_step() for run in login.runs()), "a run trains")
    login.cluster.stop_controller()
    fast.touch()
    login.cluster.start_controller()
    wait_until(login.cluster.answers, "the controller answers")
    login.cluster.wait_until_empty()
    assert {(run.status.status, run.status.attempts) for run in login.runs()} == {("done", 1)}


def test_code_edited_after_the_submit_changes_no_job(login):
    study = login.study('["edited"]')
    login.variant("edited", "x = x * 2.0")
    login.run_locally(study)
    nodes = ",".join(login.cluster.nodes)
    login.cluster.call("scontrol", "update", f"NodeName={nodes}", "State=DRAIN", "Reason=test")
    login.submit(study, TIME)
    (submitted,) = [run.code_hash for run in login.runs()]
    login.variant("edited", "x = x * 0.5")
    login.cluster.call("scontrol", "update", f"NodeName={nodes}", "State=RESUME")
    login.cluster.wait_until_empty()
    (run,) = login.runs()
    assert (run.status.status, run.code_hash) == ("done", submitted), run.outcome
    assert curves(login.folder / "results") == curves(login.folder / "local")


def test_a_login_node_without_gpus_submits_gpu_work(login):
    """The nodes' GPUs are character devices: what is asked for and set is real, CUDA is not."""
    study = login.study('["learned"]')
    gpus = ["train.device=cuda", "launch.slurm.gpus_per_node=2"]
    (submission,) = login.submit(study, TIME, *gpus)
    asked = login.cluster.call("scontrol", "show", "job", f"{submission.job}_0")
    assert "TresPerNode=gres:gpu:1" in asked
    login.cluster.wait_until_empty()
    (run,) = login.runs()
    assert run.status.status == "failed" and "cuda" in (run.status.message or "").lower()


ON_SLURM = [TIME, "launch.slurm.per_element=1"]


def test_two_submitters_of_a_study_submit_nothing_twice(login):
    """One of them is stopped: its jobs continue, and the other one follows them."""
    study = login.study('["slow", "learned"]')
    fast = login.slow_variant()
    arguments = ("run", study, "--on", "slurm", "--seeds", "0,1")
    stopped, other = (login.start(*arguments, settings=ON_SLURM) for _ in range(2))
    wait_until(lambda: any(run.last_step() for run in login.runs()), "a run trains")
    stopped.send_signal(signal.SIGINT)
    _, err = stopped.communicate()
    assert stopped.returncode == 130 and "cancel s" in err, err
    fast.touch()
    _, err = other.communicate()
    assert other.returncode == 0 and "4 of 4 done" in err, err
    submissions = Store(login.folder / "results").submissions("s")
    elements = [element for submission in submissions for element in submission.elements]
    assert len(elements) == 4 and len({run_id for element in elements for run_id in element}) == 4
    assert {(run.status.status, run.status.attempts) for run in login.runs()} == {("done", 1)}


def test_a_cancelled_study_stays_away_until_it_is_run_again(login):
    study = login.study('["slow"]')
    fast = login.slow_variant()
    login("run", study, "--on", "slurm", "--no-wait", settings=ON_SLURM)
    wait_until(lambda: any(run.last_step() for run in login.runs()), "the run trains")
    (run,) = login.runs()
    assert "running on" in login("status", study).stdout
    assert "cancelled" in login("cancel", study).stderr
    login.cluster.wait_until_empty()
    assert run.status.status == "interrupted"
    n_done = len(run.steps())
    fast.touch()
    assert "1 of 1 done" in login("run", study, "--on", "slurm", settings=ON_SLURM).stderr
    assert run.probes.resumed_at == [n_done] and run.status.attempts == 2
