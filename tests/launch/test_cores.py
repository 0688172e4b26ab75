"""Without these, ranks would start more threads than the cores that they may use."""

from pathlib import Path

import pytest

from harness.launch import cores as cores_module
from harness.launch.cores import cores, lowest_quota, slurm_cores
from harness.results.control_groups import group_folders

# Captured: a container with control groups of version 2, whose root is its own group.
V2_CONTAINER = ("0::/\n", "30 24 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n")
# A systemd service on a host of version 2.
V2_SERVICE = (
    "0::/system.slice/slurmstepd.scope/job_7/step_batch/user/task_0\n",
    "35 24 0:30 / /sys/fs/cgroup rw,nosuid,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
)
# Docker on version 1: the group's path is that of the host, and the mount point is that group.
V1_DOCKER = (
    "4:memory:/docker/0a1b\n3:cpu,cpuacct:/docker/0a1b\n1:name=systemd:/docker/0a1b\n0::/system\n",
    "41 32 0:37 /docker/0a1b /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
    "42 32 0:38 /docker/0a1b /sys/fs/cgroup/cpuset ro - cgroup cgroup rw,cpuset\n",
)
# Version 1 without containers.
V1_HOST = (
    "1:cpu:/slurm/uid_0/job_7\n0::/\n",
    "11 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "11 32 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n",
)


@pytest.mark.parametrize(
    ("files", "first", "n_folders"),
    [
        (V2_CONTAINER, "/sys/fs/cgroup", 1),
        (
            V2_SERVICE,
            "/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_batch/user/task_0",
            7,
        ),
        (V1_DOCKER, "/sys/fs/cgroup/cpu,cpuacct", 1),
        (V1_HOST, "/sys/fs/cgroup/cpu/slurm/uid_0/job_7", 4),
        (("", ""), None, 0),
    ],
    ids=["container", "service", "docker", "host", "none"],
)
def test_the_groups_that_limit_a_process_are_found(files, first, n_folders):
    folders = group_folders(*files, "cpu")
    assert len(folders) == n_folders
    assert first is None or folders[0] == Path(first)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.cfs_quota_us": "400000\n", "cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": ""}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_group_is_read(tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert lowest_quota([tmp_path]) == quota


def test_the_lowest_quota_of_the_parents_counts(tmp_path):
    for name, quota in (("a", 300_000), ("a/b", 200_000), ("a/b/c", 800_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cpu.max").write_text(f"{quota} 100000")
    assert lowest_quota([tmp_path / "a/b/c", tmp_path / "a/b", tmp_path / "a"]) == 2


def test_cpus_per_task_count_within_a_job_only():
    assert slurm_cores({"SLURM_CPUS_PER_TASK": "3", "SLURM_JOB_ID": "7"}) == 3
    assert slurm_cores({"SLURM_CPUS_PER_TASK": "3"}) is None
    assert slurm_cores({"SLURM_JOB_ID": "7"}) is None


@pytest.mark.parametrize(
    ("affinity", "job", "quota", "expected"),
    [(8, None, None, 8), (8, "2", None, 2), (8, "16", 4.9, 4), (8, "2", 0.3, 1), (2, "4", 4.0, 2)],
)
def test_the_smallest_limit_counts(monkeypatch, affinity, job, quota, expected):
    monkeypatch.setattr(cores_module, "affinity_cores", lambda: affinity)
    monkeypatch.setattr(cores_module, "lowest_quota", lambda folders: quota)
    for name in ("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
        if job is not None:
            monkeypatch.setenv(name, job)
    assert cores() == expected
