"""`make chaos`: many random kills do not change a bit of the curves (KILLS, SEED)."""

import os
import random

from killing import Chaos

from harness.report import write
from harness.results.store import Store


def test_many_kills_leave_the_curves_unchanged(tmp_path):
    n_kills = int(os.environ.get("KILLS", "50"))
    chaos = Chaos(tmp_path, int(os.environ.get("SEED", random.randrange(1_000_000))))
    whole, left, n_rounds = chaos.whole(), n_kills, 0
    while left > 0:
        left, n_rounds = left - chaos.disturb(f"round{n_rounds}", left), n_rounds + 1
        print(f"{n_kills - left} kills: {dict(chaos.kills)}")
        assert chaos.curves(f"round{n_rounds - 1}") == whole
        assert (
            write(Store(tmp_path / f"round{n_rounds - 1}"), "chaos", tmp_path / "reports")
            / "report.md"
        ).exists()
    assert not chaos.left()
