"""Plan a study from finished runs: the seeds that a difference needs, and their cost."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from harness.analysis import comparability, significance
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.intervals import TAIL, paired_differences
from harness.analysis.metrics import final_losses
from harness.results.records.estimates import Bounds

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class SeedPlan:
    """The seeds that detect a difference of `min_difference` nats, if the noise stays the same.

    `noise` is the standard deviation of paired differences, pooled over entries, with
    `degrees_of_freedom`. `seeds_low` to `seeds_high` is the number of seeds at the ends of its 95 %
    interval (of a chi-squared variance). `minimum_detectable_effect` is the difference that the
    `seeds_done` detect with 80 % power. Hours are those of all runs, one after the other.
    """

    min_difference: float
    n_compared: int
    noise: float
    degrees_of_freedom: int
    seeds_done: int
    minimum_detectable_effect: float
    seeds: int | None
    seeds_low: int | None
    seeds_high: int | None
    hours_per_seed: float
    hours: float | None


def plan_seeds(study: StudyResults, min_difference: float) -> SeedPlan | None:
    """Plan from the runs that are done; None if no entry shares two seeds with its baseline.

    Entries whose differences are constant, such as a bitwise equal parallelism, have no noise and
    are not pooled.
    """
    pairs = []
    n_by_context: Counter[str] = Counter()
    for entry in study.entries:
        base = study.baseline_of(entry)
        if base and comparability.in_nats(entry, base):
            pairs.append((entry, base))
            n_by_context[study.context_name(entry)] += 1
    differences = [
        list(paired_differences(final_losses(entry), final_losses(base)).values())
        for entry, base in pairs
    ]
    seeds_done = max(map(len, differences), default=0)
    noisy = [values for values in differences if len(values) > 1 and np.ptp(values) > 0]
    if not noisy:
        return None
    noise, df = pooled(noisy)
    n_compared = max(n_by_context.values())
    alpha = significance.ALPHA / n_compared
    low, high = _noise_interval(noise, df)
    seeds = _seeds(min_difference, noise, alpha)
    hours = sum(map(_mean_run_s, study.entries)) / SECONDS_PER_HOUR
    return SeedPlan(
        min_difference=min_difference,
        n_compared=n_compared,
        noise=noise,
        degrees_of_freedom=df,
        seeds_done=seeds_done,
        minimum_detectable_effect=significance.minimum_detectable_effect(seeds_done, noise, alpha),
        seeds=seeds,
        seeds_low=_seeds(min_difference, low, alpha),
        seeds_high=_seeds(min_difference, high, alpha),
        hours_per_seed=float(hours),
        hours=None if seeds is None else float(hours * max(0, seeds - seeds_done)),
    )


def pooled(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Return the pooled standard deviation of groups of differences, and its degrees of freedom."""
    df = sum(len(values) - 1 for values in groups)
    squares = sum(float(np.var(values, ddof=0)) * len(values) for values in groups)
    return math.sqrt(squares / df), df


def _seeds(difference: float, sd: float, alpha: float) -> int | None:
    return significance.required_seeds(
        partial(significance.paired_t_power, difference=difference, sd=sd, alpha=alpha)
    )


def _noise_interval(sd: float, df: int) -> Bounds:
    from scipy.special import chdtri

    low = sd * math.sqrt(df / float(chdtri(df, TAIL)))
    high = sd * math.sqrt(df / float(chdtri(df, 1 - TAIL)))
    return low, high


def _mean_run_s(entry: Entry) -> float:
    """Return the mean total time of the runs that recorded it, seconds; 0 if there are none."""
    totals = [run.total_s for run in entry.done if run.total_s is not None]
    return float(np.mean(totals)) if totals else 0.0
