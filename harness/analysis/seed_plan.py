"""Plan a study from its runs: the seeds that a difference in the loss needs, and their cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from harness.analysis import block_model, hypotheses, power, significance
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.intervals import TAIL
from harness.analysis.pairs import METRICS, Pair, values
from harness.analysis.power import Noise
from harness.analysis.power_thresholds import FloatArray, Rule
from harness.analysis.significance import TWO_KEYS_FROM
from harness.results.records.estimates import Bounds

SECONDS_PER_HOUR = 3600
TABLE_SEEDS = (2, 3, 4, 5, 6, 8, 10, 15, 20)
TABLE_EFFECTS = (0.5, 1.0, 2.0, 3.0)  # standard deviations of paired differences


@dataclass(frozen=True)
class SeedPlan:
    """The seeds that detect a difference of `min_difference` nats in one family of tests.

    A family is the entries of a context under the baseline's parallelism. `noise` is the standard
    deviation of its paired differences. `seeds_low` to `seeds_high` is the number of seeds at the
    ends of the noise's 95 % interval (of a chi-squared variance). `minimum_detectable_effect` is
    the difference, in nats, that the `seeds_done` detect with 80 % power. `power` has a row for
    each number of seeds and a column for each effect in standard deviations; the last one is
    `min_difference`. Hours are those of the runs of the family and its baseline, one after the
    other; None if no run has recorded its time. `alpha` is the level of the newest complete look,
    0.05 of a study with a fixed number of seeds.
    """

    context: str
    min_difference: float
    n_compared: int
    rule: Rule
    noise: Noise
    seeds_done: int
    minimum_detectable_effect: float
    seeds: int | None
    seeds_low: int | None
    seeds_high: int | None
    n_entries: int
    hours_per_seed: float | None
    hours: float | None
    power: pd.DataFrame
    alpha: float


@dataclass(frozen=True)
class FamilyNoise:
    """The noise of a family's paired differences, and the rule by which these are tested."""

    noise: Noise
    rule: Rule


def plan_seeds(study: StudyResults, min_difference: float) -> list[SeedPlan]:
    """Plan each family of tests of the loss from its runs; empty if no noise can be estimated.

    Copies of the baseline under another parallelism need no plan. Losses that are compared in bits
    per byte count as tests of the family, but not in its noise, which is in nats.
    """
    plans = []
    for family in hypotheses.families(study, list(study.entries), "val_loss"):
        has_nats = any(pair.unit == "nats per token" for pair in family)
        if has_nats and not hypotheses.is_copy(family[0].entry, family[0].base):
            plan = _plan_family(study, family, min_difference)
            if plan is not None:
                plans.append(plan)
    return plans


def family_noise(losses: FloatArray) -> FamilyNoise | None:
    """Return the noise of paired differences of the losses (n_seeds, n_entries); None without.

    The first column is the baseline's; NaN where a run has no value. The noise is that of the block
    model. If the baseline is noisier than the others, its noise is in every difference, and theirs
    is that of a single one.
    """
    differences = losses[:, 1:] - losses[:, :1]
    n_paired = np.isfinite(differences).sum(axis=0)
    model = block_model.fit(losses)
    if model is None or n_paired.max(initial=0) < 2:
        return None
    p = block_model.baseline_noise_pvalue(losses[:, 0], losses[:, 1:])
    if p is None or p >= significance.BASELINE_NOISE_P or n_paired.max() < TWO_KEYS_FROM:
        noise = Noise(math.sqrt(2 * model.variance), model.degrees_of_freedom)
        return FamilyNoise(noise, "two keys") if noise.sd > 0 else None
    repeated = n_paired > 1
    variances = np.nanvar(differences[:, repeated], axis=0, ddof=1)
    df = int(n_paired[repeated].min()) - 1
    return FamilyNoise(Noise(math.sqrt(float(variances.mean())), df), "Holm")


def noise_interval(noise: Noise) -> Bounds:
    """Return the 95 % interval of a standard deviation."""
    from scipy.special import chdtri

    df = noise.degrees_of_freedom
    low = noise.sd * math.sqrt(df / float(chdtri(df, TAIL)))
    high = noise.sd * math.sqrt(df / float(chdtri(df, 1 - TAIL)))
    return low, high


def _plan_family(
    study: StudyResults, family: Sequence[Pair], min_difference: float
) -> SeedPlan | None:
    base = family[0].base
    differences = {pair.label: np.array(list(pair.differences().values())) for pair in family}
    compared = [pair for pair in family if not _is_constant(differences[pair.label])]
    entries = [base, *(pair.entry for pair in compared)]
    in_nats = [base, *(pair.entry for pair in compared if pair.unit == "nats per token")]
    losses = pd.DataFrame({one.label: values(one, METRICS["val_loss"]) for one in in_nats})
    found = family_noise(losses.to_numpy(dtype=float))
    if found is None:
        return None
    if len(in_nats) < len(entries):  # differences in two units have no common noise
        found = replace(found, rule="Holm")
    m = len(compared)
    alpha = study.level
    seeds_done = max(map(len, differences.values()))

    def required(sd: float) -> int | None:
        return power.required_seeds(
            lambda n: power.two_key_power(n, min_difference / sd, m, alpha, found.rule)
        )

    seeds = required(found.noise.sd)
    low, high = noise_interval(found.noise)
    hours, missing_hours = _hours(entries, seeds)
    smallest = power.minimum_detectable_effect(seeds_done, m, alpha, found.rule)
    return SeedPlan(
        context=study.context_name(base),
        min_difference=min_difference,
        n_compared=m,
        rule=found.rule,
        noise=found.noise,
        seeds_done=seeds_done,
        minimum_detectable_effect=smallest * found.noise.sd,
        seeds=seeds,
        seeds_low=required(low),
        seeds_high=required(high),
        n_entries=len(entries),
        hours_per_seed=hours,
        hours=missing_hours,
        power=_power_table(
            {*TABLE_SEEDS, seeds_done, *([seeds] if seeds else [])},
            [*TABLE_EFFECTS, min_difference / found.noise.sd],
            m,
            alpha,
            found.rule,
        ),
        alpha=alpha,
    )


def _is_constant(differences: FloatArray) -> bool:
    return len(differences) > 1 and significance.is_constant(differences)


def _power_table(
    numbers: set[int], effects: Sequence[float], n_comparisons: int, alpha: float, rule: Rule
) -> pd.DataFrame:
    rows = {
        n: [power.two_key_power(n, effect, n_comparisons, alpha, rule) for effect in effects]
        for n in sorted(numbers)
        if n > 1
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(effects))


def _hours(entries: Sequence[Entry], seeds: int | None) -> tuple[float | None, float | None]:
    """Return the hours of one seed of all entries, and those of the seeds that are missing."""
    per_seed = 0.0
    missing = 0.0
    times = {entry.label: _run_seconds(entry) for entry in entries}
    known = [time for time in times.values() if time is not None]
    if not known:
        return None, None
    for entry in entries:
        time = times[entry.label]
        run_hours = (float(np.mean(known)) if time is None else time) / SECONDS_PER_HOUR
        per_seed += run_hours
        missing += run_hours * max(0, (seeds or 0) - len(entry.done))
    return per_seed, None if seeds is None else missing


def _run_seconds(entry: Entry) -> float | None:
    """Return the mean total time of the runs that recorded it, seconds; None if none did."""
    totals = [run.total_s for run in entry.done if run.total_s is not None]
    return float(np.mean(totals)) if totals else None
