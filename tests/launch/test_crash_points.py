"""Crashes at a few file-system operations cost no result; `make chaos` tries many."""

import os
from random import Random, randrange

import pytest
from crash_points import CrashedRuns, Launcher, Point, sample

pytestmark = pytest.mark.distributed

N_POINTS = {"single": 5, "ddp": 1, "fsdp": 1}
IN_FOREGROUND = ("ddp",)


@pytest.fixture(scope="module")
def launcher(tmp_path_factory):
    with Launcher(tmp_path_factory.mktemp("crashes")) as launcher:
        yield launcher


@pytest.mark.parametrize("parallelism", N_POINTS)
def test_a_crash_at_an_operation_changes_no_bit(parallelism, launcher):
    """The same command resumes or repeats: losses, evaluations and weights stay the same."""
    seed = int(os.environ.get("SEED", randrange(1_000_000)))
    runs = CrashedRuns(launcher, parallelism, parallelism in IN_FOREGROUND)
    for point in sample(runs.operations(), N_POINTS[parallelism], Random(seed)):
        runs.crash(point)


def test_states_that_a_crash_left_are_removed(launcher):
    """Training removes them after the run is done, so that a crash before loses no step."""
    runs = CrashedRuns(launcher, "single", is_foreground=False)
    removals = [
        operation
        for operation in runs.operations()
        if operation.thread == "mainthread" and "checkpoint/step-4/state/" in operation.place
    ]
    assert runs.crash(Point(removals[0], "before", "process")) == ["done None"]
