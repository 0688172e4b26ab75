"""`make scale`: reports on thousands of runs stay fast and small, in linear time."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from harness.analysis import dataset as accounting

RUNS = int(os.environ.get("SCALE", 0))
MOST_MEMORY, MOST_PAGE = 2 * 2**30, 15e6  # bytes
MOST_GROWTH = 1.3  # of the time for a run, where there are four times as many
AXES = {"positional": "learned", "attention": "mha", "norm": "layernorm", "parallelism": "single"}


def test_reading_on_all_cores_gives_the_same_runs(fake, monkeypatch):
    fake.outcome = {"rope-gqa2-single-s1": ("failed", "nan", "no finite loss")}
    store = fake.write().store
    damaged = store.runs(fake.name)[3]
    (damaged.path / "eval.jsonl").write_text("{\n")
    one_by_one = accounting.read(store, fake.name)
    monkeypatch.setattr(accounting, "PARALLEL_FROM", 2)
    at_once = accounting.read(store, fake.name)
    assert at_once.unreadable == one_by_one.unreadable and len(at_once.unreadable) == 1
    assert [run.run_id for run in at_once.runs] == [run.run_id for run in one_by_one.runs]
    for run, same in zip(at_once.runs, one_by_one.runs, strict=True):
        assert run.status == same.status and run.probes == same.probes
        np.testing.assert_array_equal(run.steps.loss, same.steps.loss)


@pytest.mark.skipif(not RUNS, reason="make scale")
@pytest.mark.parametrize("n_seeds", [5, 1])
def test_time_is_linear_and_memory_and_page_stay_small(fake, tmp_path, n_seeds):
    took = {}
    for name, n_runs in (("quarter", RUNS // 4), ("whole", RUNS)):
        study = many(replace(fake, name=name), n_runs // n_seeds, n_seeds).write()
        n_runs = len(study.store.runs(name))
        seconds, peak = measured(
            "report", name, "--results", fake.root, "--out", tmp_path / "reports"
        )
        page = (tmp_path / "reports" / name / "index.html").stat().st_size
        status_s, _ = measured("status", name, "--results", fake.root)
        took[name] = seconds / n_runs
        print(
            f"\n{n_runs:,} runs, {n_seeds} per entry: "
            f"report {seconds:.1f} s, {peak / 2**20:,.0f} MiB; "
            f"page {page / 1e6:.1f} MB; status {status_s:.1f} s"
        )
        assert peak < MOST_MEMORY and page < MOST_PAGE
    assert took["whole"] < MOST_GROWTH * took["quarter"]


def many(study, n_entries, n_seeds):
    """Give the study this many entries over four axes and this many seeds."""
    sides = [max(1, round(n_entries ** (1 / 3)))] * 2
    sides += [-(-n_entries // (sides[0] * sides[1])), 1]
    study.axes = {
        axis: [first, *(f"{axis}{i}" for i in range(1, side))]
        for (axis, first), side in zip(AXES.items(), sides, strict=True)
    }
    study.baseline, study.seeds = AXES, tuple(range(n_seeds))
    study.steps, study.eval_every = 1000, 100
    return study


def measured(*arguments):
    """Run a command; return its seconds and its peak resident memory, bytes."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *map(str, arguments)], stdout=subprocess.DEVNULL
    )
    _, code, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    assert process.returncode == 0
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - began, usage.ru_maxrss * unit
