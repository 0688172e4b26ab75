"""Phrases that line charts share: the meaning of the lines, and the alternative text."""

from collections.abc import Iterable, Sequence

from harness.analysis.dataset import Entry
from harness.analysis.summary import Summary
from harness.report.charts.spec import Line
from harness.report.formatting import count, significant_figures


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

    Entries that diverge from the single-process run do not count. With `of_longest`, only the lines
    that reach furthest do.
    """
    n = len({line.entry for line in lines})
    text = f"{title} for {count(n, 'entry', 'entries')}"
    sound = [line for line in lines if line.entry not in summary.diverging]
    if not sound:
        return f"{text}; all diverge from the single-process run."
    furthest = max(line.x[-1] for line in sound)
    ends = [line for line in sound if line.x[-1] == furthest or not of_longest]
    lowest = min(ends, key=lambda line: line.y[-1])
    return f"{text}; {finding}: {lowest.entry}, {significant_figures(lowest.y[-1])} {unit}."
