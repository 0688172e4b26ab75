"""Without these, what Slurm does to a job could cost a run its state, or a user the reason."""

import contextlib
import time

import psutil
import pytest
from command_line import n_saved_steps
from slurm_cluster import Cluster, Job, wait_until
from slurm_login import Login, curves

from harness.results.run import Run

pytestmark = [pytest.mark.slurm, pytest.mark.distributed]

TIME = "00:20:00"
SETTINGS = [f"launch.slurm.time={TIME}", "launch.slurm.signal_s=120", "launch.slurm.per_element=1"]
SETTINGS += ["launch.checkpoint_every=2"]
TRAIN = ["train.steps=60", "train.tokens_per_step=128", "train.eval_every=20"]
SEEDS = "--seeds=0,1,2,3,4,5"
URGENT = ["--partition=urgent", "--nodelist=n1", "--ntasks=1", "--output=/dev/null"]
FORK_SERVER = "multiprocessing.forkserver"
# No run ends before `fast` exists: the later steps would take several minutes.
SLOW = """self.n_calls = getattr(self, "n_calls", 0) + self.training
        if self.training and not os.path.exists({fast!r}):
            time.sleep(1.0 if self.n_calls < 30 else 15.0)"""


@pytest.fixture(scope="module")
def cluster(make_cluster) -> Cluster:
    return make_cluster(cpus=3)


def processes(run: Run) -> list[psutil.Process]:
    """Return the processes of the element that trains a run: launcher, fork server, ranks."""
    launcher = psutil.Process(run.status.pid)
    return [launcher, *launcher.children(recursive=True)]


def rank(run: Run) -> psutil.Process:
    for process in processes(run):
        with contextlib.suppress(psutil.Error):
            if any(FORK_SERVER in part for part in process.parent().cmdline()):
                return process
    raise AssertionError(f"{run.run_id} has no rank")


def active(login: Login) -> dict[str, Job]:
    return {job.id: job for job in login.cluster.active_jobs()}


def set_limit(cluster: Cluster, job: str, limit: str) -> None:
    cluster.call("scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")


def test_events_end_in_a_resume_or_a_named_failure(login):
    """Six runs on two nodes: each meets another event; squeue fails meanwhile."""
    cluster = login.cluster
    study = login.study('["slow"]')
    fast = login.folder / "fast"
    login.variant("slow", SLOW.format(fast=str(fast)))
    arguments = ("run", study, SEEDS, "--on=slurm")
    following = login.start_often(*arguments, settings=[*SETTINGS, *TRAIN])
    # The queue has the jobs before the record of their submission has its job.
    wait_until(
        lambda: len(active(login).keys() & login.elements().keys()) == 6, "all are submitted"
    )
    elements = {job: run for job, (run,) in login.elements().items()}
    started = time.time()
    wait_until(lambda: all(map(n_saved_steps, elements.values())), "all have saved a checkpoint")
    by_node: dict[str, list[str]] = {"n1": [], "n2": []}
    for job in active(login).values():
        by_node[job.nodes].append(job.id)

    # Memory runs out: the kernel kills a rank, or all of a step.
    login.away.touch()
    n_asked = login.n_asked
    of_rank, of_step, of_node = by_node["n2"]
    rank(elements[of_rank]).kill()
    for process in processes(elements[of_step]):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until(lambda: not {of_rank, of_step} & active(login).keys(), "both jobs have ended")

    # A node loses power; a job is preempted, one requeued, one reaches its time limit.
    cluster.kill_node("n2")
    cluster.report_down("n2")
    urgent = cluster.call("sbatch", "--parsable", *URGENT, "--wrap", "sleep 600").strip()
    wait_until(lambda: active(login)[urgent].state == "RUNNING", "a job is preempted")
    preempted = [job for job in by_node["n1"] if active(login)[job].state != "RUNNING"]
    assert len(preempted) == 1
    requeued, limited = [job for job in by_node["n1"] if job not in preempted]
    cluster.call("scontrol", "requeue", requeued)
    set_limit(cluster, limited, f"{(time.time() - started) // 60 + 2:.0f}")  # 1 to 2 minutes left
    wait_until(lambda: login.n_asked >= n_asked + 3, "squeue has failed several times")
    login.away.unlink()
    cluster.start_node("n2")
    wait_until(lambda: "back in the queue" in login.element_log(limited), "the limit is reached")
    set_limit(cluster, limited, TIME)
    cluster.call("scancel", urgent)
    fast.touch()
    cluster.wait_until_empty()
    _, err = following.communicate()

    assert following.returncode == 1 and "4 of 6 done" in err, err
    assert err.count("the queue cannot be asked (squeue: ") == 1, err
    assert err.count("the queue can be asked again") == 1, err
    status = elements[of_rank].status
    assert (status.status, status.reason) == ("failed", "killed") and "memory" in status.message
    status = elements[of_step].status
    assert (status.status, status.reason) == ("interrupted", "killed"), status.message
    cause = f"{elements[of_step].run_id} left the queue without an end (interrupted: "
    assert cause in err and f"{of_step} FAILED" in err, err
    for job in (of_node, *preempted, requeued, limited):
        assert elements[job].status.attempts == 2, login.element_log(job)
    # What Slurm does not bring back, another `run` resumes, also on this machine.
    login.run_locally(study, SEEDS, results="results", settings=TRAIN, code=1)
    login.run_locally(study, SEEDS, "--retry-failed", results="results", settings=TRAIN)
    assert all(run.probes.resumed_at[0] >= 2 for run in elements.values())
    login.run_locally(study, SEEDS, settings=TRAIN)
    assert curves(login.folder / "results") == curves(login.folder / "local")
