"""Without these, a study on a cluster could train a run twice, another code, or not at all."""

import signal
import time
from collections import Counter

import pytest
from slurm_cluster import POLL_S, Cluster, wait_until
from slurm_login import Login

from harness.launch.slurm import queue
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
    arguments = ("run", study, "--on=slurm", "--seeds=0,1,2,3")
    started = time.monotonic()
    following = login.start_stubbed(*arguments, settings=[TIME, *packing])
    most_at_once = 0
    while following.poll() is None:
        running = [job.array for job in login.cluster.active_jobs() if job.state == "RUNNING"]
        most_at_once = max(most_at_once, *Counter(running).values(), 0)
        time.sleep(POLL_S)
    _, err = following.communicate()
    assert following.returncode == 0 and "12 of 12 done" in err, err
    assert login.n_asked <= 1 + (time.monotonic() - started) / queue.ASK_INTERVAL_S
    assert most_at_once == 2
    submissions = Store(login.folder / "results").submissions("s")
    assert [len(submission.elements) for submission in submissions] == [MAX_ARRAY, 1]
    trained = login.times_trained()
    assert set(trained) == {run.run_id for run in login.runs()} and set(trained.values()) == {1}


def test_queued_runs_keep_the_code_of_their_submission(cluster, tmp_path):
    """Also from a folder that has a name with special characters, with a setup of the user."""
    folder = tmp_path / '100% ü "it\'s" $HOME'
    folder.mkdir()
    login = Login(folder, cluster)
    study = login.study('["edited"]')
    login.variant("edited", "assert os.environ['FROM_SETUP'] == 'two words'")
    setup = "launch.slurm.setup=['export FROM_SETUP=\"two words\"']"
    options = "launch.slurm.options=['--hold', '--mem=100M', '--comment=two words']"
    settings = [TIME, "train.steps=2", "launch.timed=exclusive", setup, options]
    login("run", study, "--on=slurm", "--no-wait", settings=settings)
    (run,) = login.runs()
    submitted = run.code_hash
    login.variant("edited", "raise ValueError('edited')")
    (job,) = login.elements()
    cluster.call("scontrol", "release", job)
    cluster.wait_until_empty()
    assert run.status.status == "done", login.element_log(job) + "\n".join(run.log_tail(40))
    assert (run.status.job, run.code_hash) == (job, submitted)
    assert run.env.timing == "exclusive"


def test_a_login_node_without_gpus_submits_gpu_work(login):
    """The nodes' GPUs are character devices: what is asked for is real."""
    study = login.study('["learned"]')
    gpus = ["train.device=cuda", "launch.slurm.gpus_per_node=2", "launch.slurm.options=['--hold']"]
    login("run", study, "--on=slurm", "--no-wait", settings=[TIME, *gpus])
    (job,) = login.elements()
    assert "TresPerNode=gres:gpu:1" in login.cluster.call("scontrol", "show", "job", job)


ON_SLURM = [TIME, "launch.slurm.per_element=1"]


def test_two_submitters_of_a_study_submit_nothing_twice(login):
    """One of them is stopped, and the controller starts again: the other one follows the jobs."""
    study = login.study('["slow", "learned"]')
    fast = login.slow_variant()
    arguments = ("run", study, "--on=slurm", "--seeds=0,1")
    stopped, other = (login.start(*arguments, settings=ON_SLURM) for _ in range(2))
    wait_until(lambda: any(run.last_step() for run in login.runs()), "a run trains")
    stopped.send_signal(signal.SIGINT)
    _, err = stopped.communicate()
    assert stopped.returncode == 130 and "cancel s" in err, err
    login.cluster.stop_controller()
    fast.touch()
    wait_until(lambda: all(run.outcome.status == "done" for run in login.runs()), "all are done")
    login.cluster.start_controller()
    _, err = other.communicate()
    assert other.returncode == 0 and "4 of 4 done" in err, err
    elements = [run.run_id for runs in login.elements().values() for run in runs]
    assert len(elements) == 4 and set(elements) == {run.run_id for run in login.runs()}
    assert {(run.status.status, run.status.attempts) for run in login.runs()} == {("done", 1)}
    wait_until(login.cluster.answers, "the controller answers")


def test_a_cancelled_study_stays_away_until_it_is_run_again(login):
    """The run would take minutes: it does not end before it is cancelled."""
    study = login.study('["slow"]')
    fast = login.slow_variant()
    settings = [*ON_SLURM, "train.steps=400", "train.tokens_per_step=128", "train.eval_every=400"]
    login("run", study, "--on=slurm", "--no-wait", settings=settings)
    wait_until(lambda: any(run.last_step() for run in login.runs()), "the run trains")
    (run,) = login.runs()
    assert "running on" in login("status", study).stdout
    assert "cancelled" in login("cancel", study).stderr
    login.cluster.wait_until_empty()
    assert run.status.status == "interrupted"
    n_done = len(run.steps())
    fast.touch()
    assert "1 of 1 done" in login("run", study, "--on=slurm", settings=settings).stderr
    assert run.probes.resumed_at == [n_done] and run.status.attempts == 2
