"""Coverage of the intervals of speeds on simulated step times; `make calibrate` takes 2,000 each.

The simulation shares no code with the statistics: loops draw the speed of each run and the time of
each of its steps. A run is faster or slower than another by `BETWEEN` whatever the seed, and by
`SHARED` with the other run of its seed. Some steps take much longer.
"""

import math
import os
from types import SimpleNamespace

import numpy as np
import pytest

from harness.analysis import decoding, intervals, metrics, scaling

N = int(os.environ.get("CALIBRATE", "300"))  # studies
N_STEPS = 15
STEP_S = 0.02  # seconds, the true geometric mean of the runs' median steps
RATIO = 1.25  # of the variant's step time to the baseline's
SHARED = 0.05  # relative: noise of a seed, common to both runs
BETWEEN = 0.03  # relative: noise of a run

STEPS = {
    "normal": lambda rng: 0.02 * rng.normal(),
    "heavy-tailed": lambda rng: 0.02 * rng.standard_t(2),
}
step_noises = pytest.mark.parametrize("step_noise", STEPS)
seed_counts = pytest.mark.parametrize("n_seeds", [2, 3, 5, 10])


def draw_run(rng, step_s, step_noise):
    """Return the step times of one run whose true median step is `step_s`."""
    times = []
    for _ in range(N_STEPS):
        times.append(step_s * math.exp(STEPS[step_noise](rng)))
    return np.array(times)


def draw_pairs(rng, n_seeds, step_noise):
    """Return the step times of the variant's and of the baseline's runs, paired by seed."""
    variant = []
    baseline = []
    for _ in range(n_seeds):
        machine = math.exp(SHARED * rng.normal())
        of_variant = RATIO * STEP_S * machine * math.exp(BETWEEN * rng.normal())
        of_baseline = STEP_S * machine * math.exp(BETWEEN * rng.normal())
        variant.append(draw_run(rng, of_variant, step_noise))
        baseline.append(draw_run(rng, of_baseline, step_noise))
    return variant, baseline


def covered(bounds, truth):
    return bounds[0] <= truth <= bounds[1]


def check_coverage(hits, at_most=0.97):
    """Check that a rate is 93 to 97 %, or deviates by what one in 1,000 tests would by chance."""
    rate = sum(hits) / len(hits)
    slack = 3.3 * math.sqrt(0.95 * 0.05 / len(hits)) if len(hits) < 2000 else 0.0
    assert 0.93 - slack <= rate <= at_most + slack, f"{rate:.3f}"


@step_noises
@seed_counts
def test_speed_intervals_have_95_percent_coverage(step_noise, n_seeds):
    rng = np.random.default_rng(n_seeds)
    times = []
    speeds = []
    ratios = []
    unpaired = []
    for _ in range(N):
        variant, baseline = draw_pairs(rng, n_seeds, step_noise)
        time = intervals.median(baseline)
        times.append(covered(time.ci95, STEP_S))
        speeds.append(covered(intervals.rate(1000, time).ci95, 1000 / STEP_S))
        ratios.append(covered(intervals.ratio_of_medians(variant, baseline).ci95, RATIO))
        other, _ = draw_pairs(rng, n_seeds, step_noise)
        welch = intervals.ratio_of_unpaired_medians(other, baseline)
        unpaired.append(covered(welch.ci95, RATIO))
    assert speeds == times
    check_coverage(times)
    check_coverage(ratios)
    check_coverage(unpaired, at_most=0.99)  # conservative with two seeds, as Welch's test is


class Runs(SimpleNamespace):
    """The runs of an entry that are done, with what the tables of speeds read of them."""

    def __init__(self, label, times, n_processes=1):
        resolved = SimpleNamespace(launch=SimpleNamespace(world_size=n_processes))
        done = []
        for seed, step_s in enumerate(times):
            record = SimpleNamespace(
                prefill_s=list(step_s), decode_s=list(step_s), reason=None, cache_bytes=1
            )
            run = SimpleNamespace(
                seed=seed,
                resolved=resolved,
                env=None,  # one machine
                shares_machine=False,
                tokens_per_step=1000,
                timed_step_s=step_s,
                decoding={(8, 16): record},
            )
            run.for_speed = run
            done.append(run)
        super().__init__(label=label, done=done, runs=done)


@step_noises
@seed_counts
def test_users_of_speeds_have_95_percent_coverage(step_noise, n_seeds):
    rng = np.random.default_rng(100 + n_seeds)
    hits = {name: [] for name in ("compared", "scaled", "efficiency", "decoded", "prefilled")}
    for _ in range(N):
        variant, baseline = draw_pairs(rng, n_seeds, step_noise)
        base = Runs("base", baseline)
        entry = Runs("entry", variant, n_processes=4)
        ratio = metrics.speed_ratio(entry.done, base.done)
        hits["compared"].append(covered(ratio.ci95, 1 / RATIO))
        row = scaling._row("group", entry, base)
        hits["scaled"].append(covered(row.speedup.ci95, 1 / RATIO))
        hits["efficiency"].append(covered(row.efficiency_ci95, 1 / RATIO / 4))
        study = SimpleNamespace(baseline_of=lambda _, base=base: base)
        (place,) = decoding.measures(study, entry)
        hits["decoded"].append(covered(place.decode_tokens_per_s_ratio.ci95, 1 / RATIO))
        speed = 8 * 16 / (RATIO * STEP_S)
        hits["prefilled"].append(covered(place.prefill_tokens_per_s.ci95, speed))
    for found in hits.values():
        check_coverage(found)
