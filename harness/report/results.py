"""What the runs of a study amount to, unrounded: results of each entry, comparisons with the baseline, equivalence.

Only runs that are done count. Field names are those of summary.json.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from harness.report import statistics
from harness.report.accounting import Entry, Study
from harness.report.runs import RunData
from harness.report.statistics import Mean, Median, Ratio

PARALLELISM = "parallelism"  # the axis whose variants must train the same model
CATEGORIES = ("parameters", "gradients", "optimizer", "activations", "other")


@dataclass(frozen=True)
class Result:
    """An entry's measures over its done runs; None where there is none. `memory` is that of the fullest rank."""

    label: str
    axes: dict[str, str]
    seeds: list[int]
    seeds_done: list[int]
    status: str | dict[str, int]
    val_loss: Mean | None
    bits_per_byte: Mean | None
    tokens_per_s: Median | None
    step_s: Median | None
    peak_memory_bytes: int | None
    memory: dict[str, int | None] | None
    parameters: int
    flops_per_token: float
    peak_flops: float | None
    mfu: float | None


@dataclass(frozen=True)
class Comparison:
    """An entry beside its baseline, over the seeds that both have done; `differs` names the axes on which they differ.

    `val_loss_difference` is variant minus baseline; the ratios are variant over baseline. `excludes_zero` is None
    where a single seed gives no interval.
    """

    label: str
    against: str
    differs: list[str]
    seeds: list[int]
    seeds_unpaired: int
    val_loss_difference: Mean | None
    excludes_zero: bool | None
    tokens_per_s_ratio: Ratio | None
    peak_memory_ratio: float | None


@dataclass(frozen=True)
class Equivalence:
    """One seed of an entry beside the same under the baseline's parallelism: largest absolute differences of losses.

    `bitwise` means that every training loss is identical. `initial_hash_equal` is None where a hash is missing.
    """

    label: str
    against: str
    seed: int
    bitwise: bool
    initial_hash_equal: bool | None
    loss_first_step: float
    loss_last_step: float
    loss_all_steps: float
    val_loss: float


def result(entry: Entry) -> Result:
    """Measure one entry."""
    done, expected = entry.done, entry.runs[0].spec["expected"]
    step_s = timed(done)
    median = statistics.median(step_s) if step_s else None
    tokens_per_s = statistics.rate(int(done[0].steps.tokens[0]), median) if median else None
    flops = done[0].probes["flops_per_token"] if done else expected["flops_per_token"]
    peak = peak_flops(done)
    fullest = max((rank for run in done for rank in run.probes["memory"]), key=lambda rank: rank["peak"], default=None)
    return Result(
        label=entry.label,
        axes=entry.axes,
        seeds=[run.seed for run in entry.runs],
        seeds_done=[run.seed for run in done],
        status=entry.status,
        val_loss=statistics.mean([float(run.evals.val_loss[-1]) for run in done]) if done else None,
        bits_per_byte=statistics.mean([float(run.evals.bits_per_byte[-1]) for run in done]) if done else None,
        tokens_per_s=tokens_per_s,
        step_s=median,
        peak_memory_bytes=fullest["peak"] if fullest else None,
        memory=fullest,
        parameters=done[0].probes["parameters"] if done else expected["parameters"],
        flops_per_token=flops,
        peak_flops=peak,
        mfu=flops * tokens_per_s.median / peak if tokens_per_s and peak else None,
    )


def timed(runs: Iterable[RunData]) -> list[np.ndarray]:
    """Return each run's timed steps, of those that have any."""
    return [run.timed_step_s for run in runs if len(run.timed_step_s)]


def peak_flops(runs: Iterable[RunData]) -> float | None:
    """Return the median over runs of the peak of all their devices, FLOP/s; None where it is unknown for any."""
    values = [run.probes["peak_flops"]["value"] for run in runs]
    return float(np.median(values)) if values and all(values) else None


def comparisons(study: Study) -> list[Comparison]:
    """Compare each entry with its baseline."""
    pairs = [(entry, baseline_of(study, entry)) for entry in study.entries]
    return [_compare(entry, base) for entry, base in pairs if base]


def baseline_of(study: Study, entry: Entry) -> Entry | None:
    """Return the entry with the study's baseline labels on the axes that state one; None for that entry itself."""
    base = study.find(entry.axes | study.baseline)
    return None if base is entry else base


def under_baseline_parallelism(study: Study, entry: Entry) -> Entry | None:
    """Return the entry with the same labels but the baseline's parallelism; None for that entry itself."""
    label = study.baseline.get(PARALLELISM)
    base = study.find(entry.axes | {PARALLELISM: label}) if label else None
    return None if base is entry else base


def _compare(entry: Entry, base: Entry) -> Comparison:
    pair = statistics.paired(_final_loss(entry), _final_loss(base))
    seeds = list(pair.seeds) if pair else []
    of_entry, of_base = ([run for run in e.done if run.seed in seeds] for e in (entry, base))
    step_s = [(a.timed_step_s, b.timed_step_s) for a, b in zip(of_entry, of_base, strict=True)]
    step_s = [(a, b) for a, b in step_s if len(a) and len(b)]
    difference = pair.difference if pair else None
    ratio = statistics.ratio_of_medians([b for _, b in step_s], [a for a, _ in step_s]) if step_s else None
    return Comparison(
        label=entry.label,
        against=base.label,
        differs=[axis for axis, label in entry.axes.items() if label != base.axes[axis]],
        seeds=seeds,
        seeds_unpaired=len({run.seed for run in entry.runs + base.runs}) - len(seeds),
        val_loss_difference=difference,
        excludes_zero=excludes_zero(difference),
        tokens_per_s_ratio=ratio,
        peak_memory_ratio=_peak(of_entry) / _peak(of_base) if seeds else None,
    )


def excludes_zero(difference: Mean | None) -> bool | None:
    """Tell whether the interval lies on one side of zero; None where there is no interval."""
    if difference is None or difference.ci95 is None:
        return None
    low, high = difference.ci95
    return low > 0 or high < 0


def _final_loss(entry: Entry) -> dict[int, float]:
    return {run.seed: float(run.evals.val_loss[-1]) for run in entry.done}


def _peak(runs: Iterable[RunData]) -> int:
    return max(rank["peak"] for run in runs for rank in run.probes["memory"])


def equivalence(study: Study) -> list[Equivalence]:
    """Compare each run with that of the same seed and the same labels but the baseline's parallelism."""
    rows = []
    for entry in study.entries:
        base = under_baseline_parallelism(study, entry)
        if base is None:
            continue
        by_seed = {run.seed: run for run in base.done}
        rows += [_equivalence(entry, run, base, by_seed[run.seed]) for run in entry.done if run.seed in by_seed]
    return rows


def _equivalence(entry: Entry, run: RunData, base: Entry, other: RunData) -> Equivalence:
    n = min(len(run.steps), len(other.steps))
    losses, losses_base = run.steps.loss[:n], other.steps.loss[:n]
    deviation = np.abs(losses - losses_base)
    hashes = (run.probes["initial_hash"], other.probes["initial_hash"])
    return Equivalence(
        label=entry.label,
        against=base.label,
        seed=run.seed,
        bitwise=len(run.steps) == len(other.steps) and bool(np.array_equal(losses, losses_base)),
        initial_hash_equal=hashes[0] == hashes[1] if all(hashes) else None,
        loss_first_step=float(deviation[0]),
        loss_last_step=float(deviation[-1]),
        loss_all_steps=float(deviation.max()),
        val_loss=float(abs(run.evals.val_loss[-1] - other.evals.val_loss[-1])),
    )
