"""The loss at lengths that were not trained, from the length probe. Field names are those of summary.json."""

from dataclasses import dataclass

from harness.analysis import intervals as statistics
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.intervals import Mean
from harness.analysis.metrics import baseline_of
from harness.results.run_data import LengthLosses


@dataclass(frozen=True)
class LengthLoss:
    """An entry's loss at one length over the seeds that have it; None where none has.

    The difference is variant minus baseline, from the seeds that both have. `reason` is why it is not defined, for the
    done seeds that are not among `seeds`.
    """

    length: int
    seeds: list[int]
    val_loss: Mean | None
    val_loss_difference: Mean | None
    windows: int | None
    reason: str | None


def measures(study: StudyResults, entry: Entry) -> list[LengthLoss]:
    """Return an entry's losses by length; none where the study asked for none."""
    lengths = sorted({length for run in entry.done for length in run.lengths})
    return [_measure(entry, baseline_of(study, entry), length) for length in lengths]


def _measure(entry: Entry, base: Entry | None, length: int) -> LengthLoss:
    found = _losses(entry, length)
    pair = statistics.paired(found, _losses(base, length)) if base else None
    asked = [run.lengths[length] for run in entry.done if length in run.lengths]
    return LengthLoss(
        length=length,
        seeds=list(found),
        val_loss=statistics.mean(list(found.values())) if found else None,
        val_loss_difference=pair.difference if pair else None,
        windows=max(at.windows for at in asked) or None,
        reason="; ".join(sorted({at.reason for at in asked if at.reason})) or None,
    )


def defined(entry: Entry, length: int) -> dict[int, LengthLosses]:
    """Return what was measured at a length, by seed."""
    found = {run.seed: run.lengths[length] for run in entry.done if length in run.lengths}
    return {seed: at for seed, at in found.items() if at.reason is None}


def _losses(entry: Entry, length: int) -> dict[int, float]:
    return {seed: at.val_loss for seed, at in defined(entry, length).items()}


def positions(length: int, n_bins: int) -> list[tuple[int, int]]:
    """Return the first and the last position, counted from 1, of each of the length probe's equal bins."""
    return [(i * length // n_bins + 1, (i + 1) * length // n_bins) for i in range(n_bins)]
