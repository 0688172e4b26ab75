"""Phrases that charts share: notes on the entries of a chart, and alternative texts."""

from collections.abc import Iterable, Sequence

from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.metrics import PARALLELISM
from harness.report.charts.spec import BarRow, Line
from harness.report.formatting import NO_SPEED


def parallelism_note(study: StudyResults, n_shown: int, n_entries: int) -> str:
    """Return the sentence on entries left out by `single_parallelism`; empty if there are none."""
    if n_shown == n_entries:
        return ""
    label = study.baseline[PARALLELISM]
    return f" Entries that differ only in the parallelism are shown once, for {label}."


def seeds_note(entries: Iterable[Entry]) -> str:
    """Return what the lines of the entries are: one seed, or the mean and range of several."""
    if any(len(entry.done) > 1 for entry in entries):
        return "mean over seeds; band: lowest to highest seed"
    return "one seed"


def status_note(entry: Entry, diverging: bool = False) -> str:
    """Return why an entry has no bar: its status, or that it has no valid speed."""
    if diverging:
        return NO_SPEED
    notes = {f"{run.status}: {run.reason}" if run.reason else run.status for run in entry.runs}
    return ", ".join(sorted(notes))


def count(n: int, noun: str, plural: str = "") -> str:
    """Return `1 entry` or `2 entries`."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def lines_alt(
    title: str, lines: Sequence[Line], finding: str, unit: str, of_longest: bool = False
) -> str:
    """Return the alternative text of a line chart; its finding is the lowest end of a line.

    With `of_longest`, only the lines that reach furthest count.
    """
    furthest = max(line.x[-1] for line in lines)
    ends = [line for line in lines if line.x[-1] == furthest or not of_longest]
    lowest = min(ends, key=lambda line: line.y[-1])
    n = len({line.entry for line in lines})
    return (
        f"{title} for {count(n, 'entry', 'entries')}; "
        f"{finding}: {lowest.entry}, {number(lowest.y[-1])} {unit}."
    )


def number(value: float) -> str:
    """Return a number with four significant digits and a thousands separator."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def bars_alt(title: str, rows: Sequence[BarRow], finding: str, unit: str, highest: bool) -> str:
    """Return the alternative text of a bar chart; its finding is the longest or shortest bar."""
    measured = [row for row in rows if row.values]
    text = f"{title} for {count(len(measured), 'entry', 'entries')}"
    if len(measured) < len(rows):
        text += f", {len(rows) - len(measured)} without a result"
    if not measured:
        return f"{text}."
    best = max(measured, key=lambda row: sum(row.values) if highest else -sum(row.values))
    return f"{text}; {finding}: {best.name}, {number(sum(best.values))} {unit}."
