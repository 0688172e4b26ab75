"""A few random kills change no bit of the curves; `make chaos` tries many."""

import os
import random

import pytest
from kill_runs import KilledStudy

pytestmark = pytest.mark.distributed

N_KILLS = 4
MAX_ROUNDS = 3


def test_a_few_kills_leave_the_curves_unchanged(tmp_path):
    """Under ddp, which reduces gradients in buckets, and fsdp, whose ranks shard the state."""
    seed = int(os.environ.get("SEED", random.randrange(1_000_000)))
    parallelism = '[{ variant = "ddp", nproc = 2 }, { variant = "fsdp", nproc = 2 }]'
    study = KilledStudy(tmp_path, seed, steps=24, parallelism=parallelism)
    curves = study.run_undisturbed()
    attempts = []
    for round_ in range(MAX_ROUNDS):
        results = f"round{round_}"
        study.run_with_kills(results, N_KILLS - study.kills.total())
        assert study.curves(results) == curves, f"seed {seed}, {dict(study.kills)}"
        attempts += [run.status.attempts for run in study.runs(results)]
        if study.kills.total() == N_KILLS:
            break
    assert study.kills.total() == N_KILLS, f"seed {seed}, {dict(study.kills)}"
    assert study.all_end()
    assert max(attempts) > 1, "no kill interrupted a run"
