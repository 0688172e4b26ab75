"""Without this, a study of thousands of runs could lose runs, train some twice, or stall.

`make scale-out` measures RUNS = 10,000 runs.
"""

import os
import time

import pytest
from slurm_login import Login

from harness.launch.slurm import queue

pytestmark = [pytest.mark.slurm, pytest.mark.distributed]

N_RUNS = int(os.environ.get("SCALE_OUT", "200"))
N_SUBMISSION_CALLS = 1  # of squeue: the second command asks for what the first one has submitted


def test_each_of_many_runs_is_trained_once(make_cluster, tmp_path):
    """The trainer waits for 0.05 s instead of training; Slurm, claims and records are real."""
    login = Login(tmp_path, make_cluster(cpus=4))
    study = login.study('["learned"]')
    arguments = ("run", study, "--on=slurm", f"--seeds={','.join(map(str, range(N_RUNS)))}")
    settings = ["launch.slurm.time=10:00:00"]
    started = time.monotonic()
    submitting = login.start_stubbed(*arguments, "--no-wait", settings=settings)
    _, err = submitting.communicate()
    submitted = time.monotonic()
    assert submitting.returncode == 0, err
    following = login.start_stubbed(*arguments, settings=settings)
    _, err = following.communicate()
    ended = time.monotonic()
    assert following.returncode == 0 and f"{N_RUNS} of {N_RUNS} done" in err, err
    n_asked = login.n_asked
    shown = login.process("status", "s").stdout
    status_s = time.monotonic() - ended
    print(
        f"{N_RUNS:,} runs in {len(login.elements()):,} elements: "
        f"submit {submitted - started:.1f} s, train {ended - submitted:.1f} s with {n_asked} calls "
        f"of squeue, status {status_s:.1f} s"
    )
    times_trained = login.times_trained()
    assert set(times_trained) == {run.run_id for run in login.runs()}
    assert len(times_trained) == N_RUNS and set(times_trained.values()) == {1}
    n_minutes = (ended - submitted) / queue.ASK_INTERVAL_S
    assert n_asked <= N_SUBMISSION_CALLS + 1 + n_minutes
    assert f"{N_RUNS} done" in shown
