"""Which entries a chart shows."""

import math
from collections.abc import Mapping, Sequence

from harness.analysis.dataset import Entry
from harness.analysis.metrics import PARALLELISM, under_baseline_parallelism
from harness.analysis.summary import Summary

MAX_ENTRIES = 40  # rows, lines, or points that a figure can name
MAX_POINTS = 1000  # of a scatter plot on the page, where they are named on hover
MAX_EFFECTS = 60


def limit_entries(summary: Summary) -> Summary:
    """Return the summary of the baselines and the lowest losses, `MAX_ENTRIES` in all."""
    entries = summary.study.entries
    if len(entries) <= MAX_ENTRIES:
        return summary
    baselines = {comparison.against for comparison in summary.comparisons}

    def rank(entry: Entry) -> tuple[bool, float]:
        loss = summary.results[entry.label].val_loss
        return entry.label not in baselines, loss.mean if loss else math.inf

    best = {entry.label for entry in sorted(entries, key=rank)[:MAX_ENTRIES]}
    return summary.restricted_to([entry for entry in entries if entry.label in best])


def single_parallelism(
    summary: Summary, measurements: Mapping[str, Sequence[object]]
) -> tuple[list[Entry], str]:
    """Return one measured entry of those that differ only in the parallelism, and a note on it.

    It is that of the baseline's parallelism if that was measured. The note is empty if no entry is
    left out.
    """
    study = summary.study
    measured = {entry.label: entry for entry in study.entries if measurements[entry.label]}
    kept = []
    for entry in measured.values():
        base = under_baseline_parallelism(study, entry)
        if base is None or base.label not in measured:
            kept.append(entry)
    if len(kept) == len(measured):
        return kept, ""
    label = study.baseline[PARALLELISM]
    return kept, f" Entries that differ only in the parallelism are shown once, for {label}."
