"""Which entries a chart shows, and the phrases with which line charts describe them."""

import math
from collections.abc import Callable, Iterable, Sequence

from harness.analysis import lost_seeds
from harness.analysis.dataset import Entry
from harness.analysis.metrics import PARALLELISM, under_baseline_parallelism
from harness.analysis.summary import Summary
from harness.report.charts.spec import Line
from harness.report.formatting import count, significant_figures
from harness.results.records.entries import EntryResult

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
    summary: Summary, is_measured: Callable[[EntryResult], bool]
) -> tuple[list[Entry], str]:
    """Return one measured entry of those that differ only in the parallelism, and a note on it.

    It is that of the baseline's parallelism if that was measured. The note is empty if no entry is
    left out.
    """
    study = summary.study
    measured = {
        entry.label: entry for entry in study.entries if is_measured(summary.results[entry.label])
    }
    kept = []
    for entry in measured.values():
        base = under_baseline_parallelism(study, entry)
        if base is None or base.label not in measured:
            kept.append(entry)
    if len(kept) == len(measured):
        return kept, ""
    label = study.baseline[PARALLELISM]
    return kept, f" Entries that differ only in the parallelism are shown once, for {label}."


def seeds_note(entries: Iterable[Entry]) -> str:
    """Return the meaning of the entries' lines: one seed, or the mean and range of several."""
    if any(len(entry.done) > 1 for entry in entries):
        return "mean over seeds; band: lowest to highest seed"
    return "one seed"


def lines_alt(
    summary: Summary,
    title: str,
    lines: Sequence[Line],
    finding: str,
    unit: str,
    of_longest: bool = False,
) -> str:
    """Return the alternative text of a line chart; its finding is the lowest end of a line.

    Entries that diverge from the single-process run or lost seeds do not count. With `of_longest`,
    only the lines that reach furthest do.
    """
    n = len({line.entry for line in lines})
    text = f"{title} for {count(n, 'entry', 'entries')}"
    unsound = summary.diverging | lost_seeds.selected(summary.study.entries)
    sound = [line for line in lines if line.entry not in unsound]
    if not sound:
        return f"{text}; all diverge from the single-process run, or lost seeds."
    furthest = max(line.x[-1] for line in sound)
    ends = [line for line in sound if line.x[-1] == furthest or not of_longest]
    lowest = min(ends, key=lambda line: line.y[-1])
    return f"{text}; {finding}: {lowest.entry}, {significant_figures(lowest.y[-1])} {unit}."
