"""A few random kills; `make chaos` does many."""

import os
import random

import pytest
from killing import Chaos

pytestmark = pytest.mark.distributed

N_KILLS = 4


def test_a_few_kills_leave_the_curves_unchanged(tmp_path):
    """Under ddp, which reduces gradients in buckets, and fsdp, whose ranks shard the state."""
    seed = int(os.environ.get("SEED", random.randrange(1_000_000)))
    chaos = Chaos(
        tmp_path,
        seed,
        steps=24,
        parallelism='[{ variant = "ddp", nproc = 2 }, { variant = "fsdp", nproc = 2 }]',
    )
    whole, left, n_rounds = chaos.whole(), N_KILLS, 0
    while left > 0 and n_rounds < 3:
        left, n_rounds = left - chaos.disturb(f"round{n_rounds}", left), n_rounds + 1
        assert chaos.curves(f"round{n_rounds - 1}") == whole, f"seed {seed}, {dict(chaos.kills)}"
    assert sum(chaos.kills.values()) == N_KILLS, f"seed {seed}, {dict(chaos.kills)}"
    assert not chaos.left()
    attempts = [run.status.attempts for i in range(n_rounds) for run in chaos.runs(f"round{i}")]
    assert max(attempts) > 1, "or the test says nothing"
