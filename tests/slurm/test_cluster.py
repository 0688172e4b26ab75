"""Without these, tests could pass on a cluster that loses no node, or leaves processes behind."""

import contextlib

import psutil
import pytest
from command_line import is_alive
from slurm_cluster import Cluster, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.distributed]


def start_sleepers(cluster: Cluster, n: int) -> None:
    """Start an array whose tasks sleep, and wait until all run."""
    cluster.call("sbatch", f"--array=0-{n - 1}", "--output=/dev/null", "--wrap", "sleep 600")
    wait_until(lambda: n_running(cluster) == n, f"{n} tasks run")


def n_running(cluster: Cluster) -> int:
    return [job.state for job in cluster.jobs()].count("RUNNING")


def all_run_again(cluster: Cluster) -> bool:
    """Let the tasks of a lost node start again; return whether all three have their processes."""
    cluster.repair()
    cluster.start_requeued()
    n_processes = sum(len(cluster.processes(node)) for node in cluster.nodes)
    return n_running(cluster) == 3 and n_processes == 9


def names(cluster: Cluster) -> set[str]:
    found = set()
    for process in cluster.all_processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            found.add(process.name())
    return found


@pytest.mark.parametrize("apart", [False, True], ids=("together", "apart"))
def test_jobs_of_a_lost_node_start_again(make_cluster, apart):
    cluster = make_cluster(apart=apart)
    start_sleepers(cluster, 3)
    wait_until(lambda: len(cluster.processes("n1")) == 6, "the steps of two tasks run on n1")
    cluster.kill_node("n1")
    assert [job.state for job in cluster.jobs()] == ["RUNNING"] * 3
    cluster.report_down("n1")
    wait_until(lambda: n_running(cluster) == 1, "the controller has taken them back")
    cluster.start_node("n1")
    wait_until(lambda: cluster.start_requeued() or n_running(cluster) == 3, "all tasks run again")


def test_a_lost_node_and_controller_cost_no_job(make_cluster):
    cluster = make_cluster(apart=True)
    start_sleepers(cluster, 3)
    wait_until(lambda: len(cluster.processes("n1")) == 6, "the steps of two tasks run on n1")
    cluster.kill_node("n1")
    assert not cluster.processes("n1")
    cluster.report_down("n1")
    wait_until(lambda: n_running(cluster) == 1, "the controller has taken them back")
    cluster.wait_until_saved()
    cluster.kill_controller()
    cluster.start_controller()
    wait_until(cluster.answers, "the controller answers")
    cluster.start_node("n1")
    wait_until(lambda: all_run_again(cluster), "all tasks run again")


def test_a_stopped_cluster_leaves_no_process_or_file(make_cluster):
    cluster = make_cluster(gpus=2)
    start_sleepers(cluster, 3)
    expected = {"munged", "slurmctld", "slurmd", "slurmstepd", "sleep"}
    wait_until(lambda: names(cluster) >= expected, "daemons and tasks run")
    processes = list(cluster.all_processes())
    cluster.stop()
    assert not any(is_alive(process) for process in processes)
    assert not cluster.folder.exists()
