"""Which entries a chart shows, and the rows of those with and without a result."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.metrics import under_baseline_parallelism
from harness.analysis.summary import Summary
from harness.report.charts.spec import BarRow
from harness.report.charts.style import choose_style
from harness.report.formatting import NO_SPEED

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


def single_parallelism(study: StudyResults, entries: Iterable[Entry]) -> list[Entry]:
    """Return one entry of those that differ only in the parallelism: the baseline's if there."""
    by_label = {entry.label: entry for entry in entries}
    kept = []
    for entry in by_label.values():
        base = under_baseline_parallelism(study, entry)
        if base is None or base.label not in by_label:
            kept.append(entry)
    return kept


def bar_rows(
    summary: Summary, measure: Callable[[Entry], BarRow | None], is_speed: bool = False
) -> list[BarRow]:
    """Return a row per entry; one without a measurement shows its status.

    If the measurement is a speed, entries that diverge from the single-process run have none.
    """
    style = choose_style(summary.study)
    rows = []
    for entry in summary.study.entries:
        diverges = is_speed and entry.label in summary.diverging
        row = measure(entry)
        if row is None:
            row = BarRow(entry.label, note=NO_SPEED if diverges else _status(entry))
        rows.append(replace(row, group=style.group(entry), colour=style.mark(entry).colour))
    return rows


def _status(entry: Entry) -> str:
    statuses = {f"{run.status}: {run.reason}" if run.reason else run.status for run in entry.runs}
    return ", ".join(sorted(statuses))
