"""Fixtures for tests on a Slurm cluster, which is started on this machine."""

from collections.abc import Callable, Iterator

import pytest
from slurm_cluster import Cluster
from slurm_conf import missing
from slurm_login import Login


@pytest.fixture(scope="module")
def make_cluster() -> Iterator[Callable[..., Cluster]]:
    """Return a function that starts a cluster of the given shape, which ends with the module."""
    clusters: list[Cluster] = []

    def make(apart: bool = False, **shape) -> Cluster:
        reason = missing(apart)
        if reason is not None:
            pytest.skip(reason)
        clusters.append(Cluster(apart=apart, **shape))
        return clusters[-1]

    yield make
    for cluster in clusters:
        cluster.stop()


@pytest.fixture(scope="module")
def cluster(make_cluster) -> Cluster:
    """Return a cluster of two nodes with two cores each."""
    return make_cluster()


@pytest.fixture
def login(cluster, tmp_path) -> Iterator[Login]:
    """Return the command line on the login node of the module's cluster."""
    login = Login(tmp_path, cluster)
    yield login
    login.stop()
    cluster.call("scancel", "--user=root")
    cluster.wait_until_empty()
