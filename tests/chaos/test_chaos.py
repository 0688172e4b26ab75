"""`make chaos`: many random kills change no bit of the curves (KILLS, SEED)."""

import os
import random

from kill_runs import KilledStudy

from harness.report import write
from harness.results.store import Store


def test_many_kills_leave_the_curves_unchanged(tmp_path):
    n_kills = int(os.environ.get("KILLS", "50"))
    seed = int(os.environ.get("SEED", random.randrange(1_000_000)))
    study = KilledStudy(tmp_path, seed)
    curves = study.run_undisturbed()
    round_ = 0
    while study.kills.total() < n_kills:
        results = f"round{round_}"
        study.run_with_kills(results, n_kills - study.kills.total())
        print(f"{study.kills.total()} kills: {dict(study.kills)}")
        assert study.curves(results) == curves
        report = write(Store(tmp_path / results), "chaos", tmp_path / "reports")
        assert (report / "report.md").exists()
        round_ += 1
    assert study.all_end()
