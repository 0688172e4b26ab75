"""What the runs of a study amount to, unrounded: results of each entry, comparisons with the baseline.

Only runs that are done count. Field names are those of summary.json.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.analysis import intervals as statistics
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.intervals import Mean, Median, Ratio
from harness.results.run_data import RunData

PARALLELISM = "parallelism"  # the axis whose variants must train the same model
EquivalenceStatus = Literal["bitwise", "within tolerance", "DIVERGES", "not checked"]
DIVERGES: EquivalenceStatus = "DIVERGES"
CATEGORIES = ("parameters", "gradients", "optimizer", "activations", "other")


@dataclass(frozen=True)
class Result:
    """An entry's measures over its done runs; None where there is none. `memory` is that of the fullest rank.

    Where `equivalence` is `DIVERGES`, the entry trains another model than it says, and its speed is no measure of it.
    """

    entry: str
    axes: dict[str, str]
    seeds: list[int]
    seeds_done: list[int]
    status: str | dict[str, int]
    equivalence: EquivalenceStatus | None
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
class BaselineComparison:
    """An entry beside its baseline, over the seeds that both have done; `differs` names the axes on which they differ.

    `val_loss_difference` is variant minus baseline; the ratios are variant over baseline. `excludes_zero` is None
    where a single seed gives no interval. Where `speed_diverges`, one of the two trains another model than it says, and
    there is no ratio of speeds.
    """

    entry: str
    against: str
    differs: list[str]
    seeds: list[int]
    seeds_unpaired: int
    val_loss_difference: Mean | None
    excludes_zero: bool | None
    tokens_per_s_ratio: Ratio | None
    speed_diverges: bool
    peak_memory_ratio: float | None


def result(entry: Entry, verdict: EquivalenceStatus | None = None) -> Result:
    """Measure one entry; `verdict` is that of its equivalence, None where there is nothing to be equivalent to."""
    done, expected = entry.done, entry.runs[0].spec.expected
    step_s = timed(done) if verdict != DIVERGES else []
    median = statistics.median(step_s) if step_s else None
    tokens_per_s = statistics.rate(int(done[0].steps.tokens[0]), median) if median else None
    flops = done[0].measured.flops_per_token if done else expected.flops_per_token
    peak = peak_flops(done)
    fullest = max(
        (rank for run in done for rank in run.measured.memory),
        key=lambda rank: rank.peak,
        default=None,
    )
    return Result(
        entry=entry.label,
        axes=entry.axes,
        seeds=[run.seed for run in entry.runs],
        seeds_done=[run.seed for run in done],
        status=entry.status,
        equivalence=verdict,
        val_loss=statistics.mean([float(run.evals.val_loss[-1]) for run in done]) if done else None,
        bits_per_byte=statistics.mean([float(run.evals.bits_per_byte[-1]) for run in done])
        if done
        else None,
        tokens_per_s=tokens_per_s,
        step_s=median,
        peak_memory_bytes=fullest.peak if fullest else None,
        memory=fullest.model_dump() if fullest else None,
        parameters=done[0].measured.parameters if done else expected.parameters,
        flops_per_token=flops,
        peak_flops=peak,
        mfu=flops * tokens_per_s.median / peak if tokens_per_s and peak else None,
    )


def timed(runs: Iterable[RunData]) -> list[np.ndarray]:
    """Return each run's timed steps, of those that have any."""
    return [run.timed_step_s for run in runs if len(run.timed_step_s)]


def peak_flops(runs: Iterable[RunData]) -> float | None:
    """Return the median over runs of the peak of all their devices, FLOP/s; None where it is unknown for any."""
    values = [run.measured.peak_flops.value for run in runs]
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known and len(known) == len(values) else None


def comparisons(study: StudyResults, diverging: Container[str] = ()) -> list[BaselineComparison]:
    """Compare each entry with its baseline; those whose labels are `diverging` have no ratio of speeds."""
    pairs = [(entry, baseline_of(study, entry)) for entry in study.entries]
    return [_compare(entry, base, diverging) for entry, base in pairs if base]


def baseline_of(study: StudyResults, entry: Entry) -> Entry | None:
    """Return the entry with the study's baseline labels on the axes that state one; None for that entry itself."""
    base = study.find(entry.axes | study.baseline)
    return None if base is entry else base


def under_baseline_parallelism(study: StudyResults, entry: Entry) -> Entry | None:
    """Return the entry with the same labels but the baseline's parallelism; None for that entry itself."""
    label = study.baseline.get(PARALLELISM)
    base = study.find(entry.axes | {PARALLELISM: label}) if label else None
    return None if base is entry else base


def _compare(entry: Entry, base: Entry, diverging: Container[str]) -> BaselineComparison:
    pair = statistics.paired(_final_loss(entry), _final_loss(base))
    seeds = list(pair.seeds) if pair else []
    of_entry, of_base = ([run for run in e.done if run.seed in seeds] for e in (entry, base))
    step_s = [(a.timed_step_s, b.timed_step_s) for a, b in zip(of_entry, of_base, strict=True)]
    step_s = [(a, b) for a, b in step_s if len(a) and len(b)]
    diverges = entry.label in diverging or base.label in diverging
    difference = pair.difference if pair else None
    ratio = (
        statistics.ratio_of_medians([b for _, b in step_s], [a for a, _ in step_s])
        if step_s
        else None
    )
    return BaselineComparison(
        entry=entry.label,
        against=base.label,
        differs=[axis for axis, label in entry.axes.items() if label != base.axes[axis]],
        seeds=seeds,
        seeds_unpaired=len({run.seed for run in entry.runs + base.runs}) - len(seeds),
        val_loss_difference=difference,
        excludes_zero=excludes_zero(difference),
        tokens_per_s_ratio=None if diverges else ratio,
        speed_diverges=diverges,
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
    return max(rank.peak for run in runs for rank in run.measured.memory)
