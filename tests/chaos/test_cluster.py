"""`make chaos`: faults of jobs, hosts and the controller change no bit (KILLS, SEED)."""

import os
import random

import pytest
from cluster_faults import ClusterStudy
from slurm_cluster import Cluster
from slurm_conf import missing


def test_many_faults_of_a_cluster_leave_the_curves_unchanged(tmp_path):
    reason = missing(apart=True)
    if reason is not None:
        pytest.skip(reason)
    n_faults = int(os.environ.get("KILLS", "50"))
    seed = int(os.environ.get("SEED", random.randrange(1_000_000)))
    cluster = Cluster(apart=True)
    try:
        study = ClusterStudy(tmp_path, cluster, seed)
        curves = study.run_undisturbed()
        round_ = 0
        while study.faults.total() < n_faults:
            results = f"round{round_}"
            study.train_with_faults(results, n_faults)
            print(f"{study.faults.total()} faults: {dict(study.faults)}")
            assert study.curves(results) == curves, study.describe(results)
            assert not study.repeated_runs(results), study.describe(results)
            round_ += 1
    finally:
        cluster.stop()
