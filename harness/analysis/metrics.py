"""Measure each entry of a study and compare it with the baseline. Only runs that are done count."""

from collections.abc import Container, Iterable

import numpy as np

from harness.analysis import comparability, intervals, lost_seeds, machines
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.pairs import BITS_PER_BYTE, values
from harness.results.records.comparisons import BaselineComparison
from harness.results.records.entries import EntryMetrics, EquivalenceStatus
from harness.results.records.estimates import Difference, Median, Ratio
from harness.results.run_data import RunData

PARALLELISM = "parallelism"  # the axis whose variants must train the same model
DIVERGES: EquivalenceStatus = "DIVERGES"
CATEGORIES = ("parameters", "gradients", "optimizer", "activations", "other")  # of memory


def result(entry: Entry, status: EquivalenceStatus | None = None) -> EntryMetrics:
    """Measure one entry; `status` is that of its equivalence check, None without a reference."""
    done = entry.done
    first = (entry.done or entry.runs)[0]
    flops_per_token = first.flops_per_token
    is_counted = not first.imported and first.resolved.expected.flops_per_token_counted is not None
    step_samples = timed(done) if status != DIVERGES else []
    step_s = intervals.median(step_samples) if step_samples else None
    tokens = done[0].tokens_per_step if done else None
    tokens_per_s = intervals.rate(tokens, step_s) if step_s and tokens else None
    peak = peak_flops(done)
    fullest = max(
        (rank for run in done for rank in run.memory),
        key=lambda rank: rank.peak,
        default=None,
    )
    val_losses = [run.final_loss for run in done]
    bits_per_byte = [run.final_bits_per_byte for run in done]
    has_bits = bool(done) and not done[0].imported
    ema_losses = [run.final_ema_val_loss for run in done]
    has_average = bool(np.isfinite(ema_losses).all()) and bool(done)
    return EntryMetrics(
        entry=entry.label,
        title=entry.title,
        axes=entry.axes,
        seeds=[run.seed for run in entry.runs],
        seeds_done=[run.seed for run in done],
        status=entry.status,
        equivalence=status,
        val_loss=lost_seeds.mean(entry, val_losses) if done else None,
        bits_per_byte=lost_seeds.mean(entry, bits_per_byte) if has_bits else None,
        ema_val_loss=lost_seeds.mean(entry, ema_losses) if has_average else None,
        tokens_per_s=tokens_per_s,
        step_s=step_s,
        peak_memory_bytes=peak_bytes(done),
        memory=fullest,
        parameters=first.parameters,
        flops_per_token=flops_per_token,
        flops_source=None if first.imported else "counted" if is_counted else "formula",
        peak_flops=peak,
        mfu=_mfu(flops_per_token, tokens_per_s, peak),
        mfu_full_attention=_mfu(first.full_attention_flops_per_token, tokens_per_s, peak),
    )


def _mfu(
    flops_per_token: float | None, tokens_per_s: Median | None, peak: float | None
) -> float | None:
    """Return the fraction of the peak FLOP/s that these FLOPs use; None if anything is unknown."""
    if not flops_per_token or not tokens_per_s or not peak:
        return None
    return flops_per_token * tokens_per_s.median / peak


def timed(runs: Iterable[RunData]) -> list[np.ndarray]:
    """Return the timed steps of each run that has any, seconds."""
    return [run.timed_step_s for run in runs if len(run.timed_step_s)]


def peak_flops(runs: Iterable[RunData]) -> float | None:
    """Return the median over runs of the peak of all devices, FLOP/s; None if any is unknown."""
    values = [run.probes.peak_flops.value if run.probes else None for run in runs]
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
    speed_reasons = machines.reasons_by_seed(entry, base, machines.speed_reason)
    runs, base_runs = machines.comparable_runs(entry, base, machines.speed_reason)
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
        speed_not_comparable=machines.compare_speeds(entry, base),
        speed_seeds_excluded=[seed for seed, reason in speed_reasons.items() if reason],
        peak_memory_ratio=memory_ratio(
            *machines.comparable_runs(entry, base, machines.memory_reason)
        ),
        memory_not_comparable=machines.compare_speeds(entry, base, machines.memory_reason),
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
    tokens = runs[0].tokens_per_step
    base_tokens = base_runs[0].tokens_per_step
    if tokens is None or base_tokens is None:
        return None
    tokens_ratio = tokens / base_tokens
    bounds = None
    if step_ratio.ci95 is not None:
        low, high = step_ratio.ci95
        bounds = (low * tokens_ratio, high * tokens_ratio)
    return Ratio(ratio=step_ratio.ratio * tokens_ratio, ci95=bounds)


def as_ratio(difference: Difference) -> Ratio:
    """Return a tested difference of logarithms as a ratio, with the interval of its test."""
    bounds = None
    if difference.ci95 is not None:
        low, high = np.exp(difference.ci95)
        bounds = (float(low), float(high))
    return Ratio(ratio=float(np.exp(difference.mean)), ci95=bounds)


def final_losses(entry: Entry) -> dict[int, float]:
    """Return the final validation loss of each run that is done, nats per token, by seed."""
    return {run.seed: run.final_loss for run in entry.done}


def peak_bytes(runs: Iterable[RunData]) -> int | None:
    """Return the peak memory of the fullest rank of all runs, bytes; None if unknown."""
    known = [run.peak_memory_bytes for run in runs if run.peak_memory_bytes is not None]
    return max(known, default=None)


def memory_ratio(runs: Iterable[RunData], base_runs: Iterable[RunData]) -> float | None:
    """Return the ratio of the peak memory of runs; None if that of one side is unknown."""
    peak = peak_bytes(runs)
    base_peak = peak_bytes(base_runs)
    return None if peak is None or base_peak is None else peak / base_peak
