"""Phrases that charts share: notes on their entries, and alternative texts with a finding."""

from collections.abc import Iterable, Sequence

from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.metrics import PARALLELISM
from harness.report.charts.spec import BarRow, Line
from harness.report.formatting import count, significant_figures


def parallelism_note(study: StudyResults, n_shown: int, n_entries: int) -> str:
    """Return the sentence on entries left out by `single_parallelism`; empty if there are none."""
    if n_shown == n_entries:
        return ""
    label = study.baseline[PARALLELISM]
    return f" Entries that differ only in the parallelism are shown once, for {label}."


def seeds_note(entries: Iterable[Entry]) -> str:
    """Return the meaning of the entries' lines: one seed, or the mean and range of several."""
    if any(len(entry.done) > 1 for entry in entries):
        return "mean over seeds; band: lowest to highest seed"
    return "one seed"


def lines_alt(
    title: str, lines: Sequence[Line], finding: str, unit: str, of_longest: bool = False
) -> str:
    """Return the alternative text of a line chart; its finding is the lowest end of a line.

    With `of_longest`, only the lines that reach furthest count.
    """
    furthest = max(line.x[-1] for line in lines)
    ends = [line for line in lines if line.x[-1] == furthest or not of_longest]
    lowest = min(ends, key=lambda line: line.y[-1])
    value = significant_figures(lowest.y[-1])
    n = len({line.entry for line in lines})
    return f"{title} for {count(n, 'entry', 'entries')}; {finding}: {lowest.entry}, {value} {unit}."


def bars_alt(
    title: str, rows: Sequence[BarRow], finding: str, unit: str, highest: bool = False
) -> str:
    """Return the alternative text of a bar chart; its finding is the shortest or longest bar."""
    measured = [row for row in rows if row.values]
    text = f"{title} for {count(len(measured), 'entry', 'entries')}"
    if len(measured) < len(rows):
        text += f", {len(rows) - len(measured)} without a result"
    best = max(measured, key=lambda row: sum(row.values) if highest else -sum(row.values))
    return f"{text}; {finding}: {best.name}, {significant_figures(sum(best.values))} {unit}."
