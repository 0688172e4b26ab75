"""Which entries a chart shows, and the phrases with which line charts describe them."""

import math
from collections.abc import Callable, Iterable, Sequence

from harness.analysis import lost_seeds
from harness.analysis.candidates import collapsed_axes, find_candidates
from harness.analysis.contexts import baseline_candidate, compared_axes
from harness.analysis.dataset import Entry
from harness.analysis.metrics import PARALLELISM
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


def one_per_candidate(summary: Summary) -> Summary:
    """Return the summary of the entries that represent a candidate each, in its own context."""
    study = summary.study
    if not collapsed_axes(study):
        return summary
    return summary.restricted_to([candidate.main for candidate in find_candidates(study)])


def baseline_in_contexts(summary: Summary) -> Summary:
    """Return the summary of the baseline's entries in all contexts; of none without contexts."""
    baseline = baseline_candidate(summary.study)
    if baseline is None or not compared_axes(summary.study):
        return summary.restricted_to([])
    return summary.restricted_to(baseline.entries[:MAX_ENTRIES])


def context_note(summary: Summary) -> str:
    """Return in which context a chart shows most candidates; empty if there is only one."""
    baseline = summary.study.baseline
    axes = collapsed_axes(summary.study)
    title = summary.study.title
    labels = [f"{axis} {title(axis, baseline[axis])}" for axis in axes if axis in baseline]
    return f" At {', '.join(labels)}." if labels else ""


def one_measured(summary: Summary, is_measured: Callable[[EntryResult], bool]) -> Summary:
    """Return the summary of one measured entry of each candidate that has any.

    It is the main one if that was measured, else one that differs from it only in the parallelism.
    """
    chosen: list[Entry] = []
    for candidate in find_candidates(summary.study):
        others = []
        for entry in candidate.entries:
            same = entry.axes | {PARALLELISM: ""} == candidate.main.axes | {PARALLELISM: ""}
            if same and entry is not candidate.main:
                others.append(entry)
        for entry in (candidate.main, *others):
            if is_measured(summary.results[entry.label]):
                chosen.append(entry)
                break
    return summary.restricted_to(chosen)


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
