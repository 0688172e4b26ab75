"""Without this, a study of thousands of runs could lose runs, train some twice, or stall.

`make scale-out` measures RUNS = 10,000 runs.
"""

import os
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from slurm_cluster import HANG_S
from slurm_login import Login
from stub_element import TRAINED

pytestmark = [pytest.mark.slurm, pytest.mark.distributed]

N_RUNS = int(os.environ.get("SCALE_OUT", "200"))


def test_each_of_many_runs_is_trained_once(make_cluster, tmp_path, monkeypatch):
    """The trainer waits for 0.05 s instead of training; Slurm, claims and records are real."""
    cluster = make_cluster(cpus=4)
    login = Login(tmp_path, cluster)
    python = tmp_path / "python"
    stub = Path(__file__).with_name("stub_element.py")
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {stub} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    study = login.study('["learned"]')
    started = time.monotonic()
    submissions = login.submit(study, "launch.slurm.time=10:00:00", seeds=range(N_RUNS))
    submitted = time.monotonic()
    cluster.wait_until_empty(hang_s=HANG_S + N_RUNS)
    ended = time.monotonic()
    monkeypatch.undo()
    shown = login.process("status", "s").stdout
    status_s = time.monotonic() - ended
    n_elements = sum(len(submission.elements) for submission in submissions)
    print(
        f"{N_RUNS:,} runs in {n_elements:,} elements: submit {submitted - started:.1f} s, "
        f"train {ended - submitted:.1f} s, status {status_s:.1f} s"
    )
    times_trained = Counter((tmp_path / "results" / TRAINED).read_text().split())
    assert set(times_trained) == {run.run_id for run in login.runs()}
    assert len(times_trained) == N_RUNS and set(times_trained.values()) == {1}
    assert f"{N_RUNS} done" in shown
