"""`make chaos`: crashes at file-system operations cost no result (POINTS, SEED)."""

import os
from collections import Counter
from random import Random, randrange

import pytest
from crash_points import PARALLELISMS, CrashedRuns, Launcher, points, sample


@pytest.fixture(scope="module")
def launcher(tmp_path_factory):
    with Launcher(tmp_path_factory.mktemp("crashes")) as launcher:
        yield launcher


@pytest.mark.parametrize("is_foreground", [False, True], ids=["background", "foreground"])
@pytest.mark.parametrize("parallelism", PARALLELISMS)
def test_a_crash_at_any_operation_changes_no_bit(parallelism, is_foreground, launcher):
    """Tries POINTS points of each parallelism, or `all`; the training waits for checkpoints or not.

    It goes on after a failure, to list all points that fail.
    """
    n_points = os.environ.get("POINTS", "40")
    seed = int(os.environ.get("SEED", randrange(1_000_000)))
    runs = CrashedRuns(launcher, parallelism, is_foreground)
    operations = runs.operations()
    chosen = points(operations)
    if n_points != "all":
        chosen = sample(operations, int(n_points), Random(seed))
    print(f"{len(operations)} operations, {len(chosen)} points, seed {seed}")
    statuses: Counter[str] = Counter()
    failures = []
    for point in chosen:
        try:
            statuses[" -> ".join(runs.crash(point)) or "not created"] += 1
        except AssertionError as failure:
            failures.append(str(failure))
    print(dict(statuses))
    assert not failures, "\n".join([*failures, f"{len(failures)} of {len(chosen)} points"])
