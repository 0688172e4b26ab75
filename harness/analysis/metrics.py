"""Measure each entry of a study and compare it with the baseline. Only runs that are done count."""

from collections.abc import Container, Iterable

import numpy as np

from harness.analysis import comparability, intervals
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.pairs import BITS_PER_BYTE, values
from harness.results.records import PredictedCost, ProbeResults
from harness.results.records.estimates import Difference, Ratio
from harness.results.records.study_summary import (
    BaselineComparison,
    EntryMetrics,
    EquivalenceStatus,
)
from harness.results.run_data import RunData

PARALLELISM = "parallelism"  # the axis whose variants must train the same model
DIVERGES: EquivalenceStatus = "DIVERGES"
CATEGORIES = ("parameters", "gradients", "optimizer", "activations", "other")  # of memory


def result(entry: Entry, status: EquivalenceStatus | None = None) -> EntryMetrics:
    """Measure one entry; `status` is that of its equivalence check, None without a reference."""
    done = entry.done
    size = model_size(entry)
    flops_per_token = model_flops(entry)
    counted = entry.runs[0].spec.expected.flops_per_token_counted
    step_samples = timed(done) if status != DIVERGES else []
    step_s = intervals.median(step_samples) if step_samples else None
    tokens_per_s = intervals.rate(done[0].tokens_per_step, step_s) if step_s else None
    peak = peak_flops(done)
    fullest = max(
        (rank for run in done for rank in run.measured.memory),
        key=lambda rank: rank.peak,
        default=None,
    )
    val_losses = [run.final_loss for run in done]
    bits_per_byte = [float(run.evals.bits_per_byte[-1]) for run in done]
    ema_losses = [float(run.evals.ema_val_loss[-1]) for run in done]
    has_average = bool(np.isfinite(ema_losses).all()) and bool(done)
    return EntryMetrics(
        entry=entry.label,
        axes=entry.axes,
        seeds=[run.seed for run in entry.runs],
        seeds_done=[run.seed for run in done],
        status=entry.status,
        equivalence=status,
        val_loss=intervals.mean(val_losses) if done else None,
        bits_per_byte=intervals.mean(bits_per_byte) if done else None,
        ema_val_loss=intervals.mean(ema_losses) if has_average else None,
        tokens_per_s=tokens_per_s,
        step_s=step_s,
        peak_memory_bytes=fullest.peak if fullest else None,
        memory=fullest,
        parameters=size.parameters,
        flops_per_token=flops_per_token,
        flops_source="formula" if counted is None else "counted",
        peak_flops=peak,
        mfu=flops_per_token * tokens_per_s.median / peak if tokens_per_s and peak else None,
    )


def model_size(entry: Entry) -> ProbeResults | PredictedCost:
    """Return the record of an entry's parameters and FLOPs per token, expected if not measured."""
    return entry.done[0].measured if entry.done else entry.runs[0].spec.expected


def model_flops(entry: Entry) -> float:
    """Return an entry's training FLOPs per token, counted if its formula is wrong."""
    return (entry.done or entry.runs)[0].flops_per_token


def timed(runs: Iterable[RunData]) -> list[np.ndarray]:
    """Return the timed steps of each run that has any, seconds."""
    return [run.timed_step_s for run in runs if len(run.timed_step_s)]


def peak_flops(runs: Iterable[RunData]) -> float | None:
    """Return the median over runs of the peak of all devices, FLOP/s; None if any is unknown."""
    values = [run.measured.peak_flops.value for run in runs]
    known = [value for value in values if value]
    return float(np.median(known)) if known and len(known) == len(values) else None


def comparisons(study: StudyResults, diverging: Container[str] = ()) -> list[BaselineComparison]:
    """Compare each entry with its baseline; `diverging` labels have no ratio of speeds.

    Differences in the loss have no interval: `summary` adds that of their test.
    """
    compared = []
    for entry in study.entries:
        base = study.baseline_of(entry)
        if base is not None:
            row = _compare(entry, base, diverging)
            compared.append(row.model_copy(update={"context": study.context_name(entry)}))
    return compared


def under_baseline_parallelism(study: StudyResults, entry: Entry) -> Entry | None:
    """Return the entry that differs in having the baseline's parallelism; None for that entry."""
    label = study.baseline.get(PARALLELISM)
    base = study.find(entry.axes | {PARALLELISM: label}) if label else None
    return None if base is entry else base


def _compare(entry: Entry, base: Entry, diverging: Container[str]) -> BaselineComparison:
    losses = final_losses(entry)
    base_losses = final_losses(base)
    seeds = sorted(losses.keys() & base_losses.keys())
    comparison = comparability.of_entries(entry, base)
    difference = None
    bits_difference = None
    if comparison.unit == "nats per token":
        difference = _difference(losses, base_losses)
    elif comparison.unit == "bits per byte":
        bits_difference = _difference(values(entry, BITS_PER_BYTE), values(base, BITS_PER_BYTE))
    diverges = entry.label in diverging or base.label in diverging
    all_seeds = {run.seed for run in entry.runs + base.runs}
    runs = [run for run in entry.done if run.seed in seeds]
    base_runs = [run for run in base.done if run.seed in seeds]
    return BaselineComparison(
        entry=entry.label,
        against=base.label,
        differs=[axis for axis, label in entry.axes.items() if label != base.axes[axis]],
        seeds=seeds,
        seeds_unpaired=len(all_seeds) - len(seeds),
        val_loss_difference=difference,
        bits_per_byte_difference=bits_difference,
        loss_unit=comparison.unit,
        not_comparable=comparison.reason,
        tokens_per_s_ratio=None if diverges else speed_ratio(runs, base_runs),
        speed_diverges=diverges,
        peak_memory_ratio=peak_bytes(runs) / peak_bytes(base_runs) if seeds else None,
    )


def _difference(values: dict[int, float], base_values: dict[int, float]) -> Difference | None:
    """Return the mean paired difference, without the interval, which its test gives."""
    found = list(intervals.paired_differences(values, base_values).values())
    return Difference(mean=float(np.mean(found)), ci95=None, n=len(found)) if found else None


def speed_ratio(runs: list[RunData], base_runs: list[RunData]) -> Ratio | None:
    """Return the ratio of throughputs of paired runs, None without timed steps."""
    pairs = [
        (run.timed_step_s, base.timed_step_s) for run, base in zip(runs, base_runs, strict=True)
    ]
    both = [(steps, base_steps) for steps, base_steps in pairs if len(steps) and len(base_steps)]
    if not both:
        return None
    step_ratio = intervals.ratio_of_medians(
        [base_steps for _, base_steps in both], [steps for steps, _ in both]
    )
    tokens_ratio = runs[0].tokens_per_step / base_runs[0].tokens_per_step
    low, high = step_ratio.ci95
    return Ratio(
        ratio=step_ratio.ratio * tokens_ratio, ci95=(low * tokens_ratio, high * tokens_ratio)
    )


def final_losses(entry: Entry) -> dict[int, float]:
    """Return the final validation loss of each run that is done, nats per token, by seed."""
    return {run.seed: run.final_loss for run in entry.done}


def peak_bytes(runs: Iterable[RunData]) -> int:
    """Return the peak memory of the fullest rank of all runs, bytes."""
    return max(run.peak_memory_bytes for run in runs)
