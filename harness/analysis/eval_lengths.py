"""The loss at sequence lengths other than the trained one, from the length probe."""

import numpy as np
from numpy.typing import NDArray

from harness.analysis import comparability, lost_seeds
from harness.analysis.dataset import Entry, StudyResults
from harness.results.records import LengthRecord
from harness.results.records.entries import LengthLoss

Positions = NDArray[np.int64]  # (n_bins,)


def measures(study: StudyResults, entry: Entry) -> list[LengthLoss]:
    """Return an entry's losses by length; empty if the study has no length probe."""
    lengths = sorted({length for run in entry.done for length in run.lengths})
    base = study.baseline_of(entry)
    if base is not None and not comparability.in_nats(entry, base, equal_length=True):
        base = None
    return [_measure(entry, base, length) for length in lengths]


def _measure(entry: Entry, base: Entry | None, length: int) -> LengthLoss:
    losses = _losses(entry, length)
    probed = [run.lengths[length] for run in entry.done if length in run.lengths]
    reasons = {probe.reason for probe in probed if probe.reason}
    return LengthLoss(
        length=length,
        seeds=list(losses),
        val_loss=lost_seeds.mean(entry, list(losses.values())) if losses else None,
        val_loss_difference=lost_seeds.mean_difference(entry, base, losses, _losses(base, length))
        if base
        else None,
        windows=max((probe.windows for probe in probed if probe.reason is None), default=None),
        reason="; ".join(sorted(reasons)) or None,
    )


def defined(entry: Entry, length: int) -> list[tuple[int, LengthRecord]]:
    """Return seed and losses of each run that has losses at this length."""
    records = [(run.seed, run.lengths[length]) for run in entry.done if length in run.lengths]
    return [(seed, record) for seed, record in records if record.reason is None]


def _losses(entry: Entry, length: int) -> dict[int, float]:
    losses = {seed: record.val_loss for seed, record in defined(entry, length)}
    return {seed: loss for seed, loss in losses.items() if loss is not None}


def positions(length: int, n_bins: int) -> tuple[Positions, Positions]:
    """Return the first and the last position, counted from 1, of each of the probe's equal bins."""
    ends = np.arange(n_bins + 1) * length // max(n_bins, 1)
    return ends[:-1] + 1, ends[1:]
