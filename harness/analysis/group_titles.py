"""Titles of groups of entries, which are named by the labels that they share."""

import re
from collections.abc import Sequence

from harness.analysis.dataset import StudyResults
from harness.results.records.study_summary import ScalingRow
from harness.results.records.tuning import TUNING
from harness.results.titles import distinct, of_entries

NPROC = re.compile(r" ×\d+$")  # of the title of a parallelism


def group_titles(
    study: StudyResults, ladder_axis: str | None, scaling: Sequence[ScalingRow]
) -> dict[str, str]:
    """Return what people read in place of the names of groups of entries.

    They are the curves of a ladder and its sizes, the entries of a tuning, and the entries that
    differ in the number of processes only.
    """
    groups = _tuned(study)
    if ladder_axis is not None:
        others = [name for name in study.varying() if name != ladder_axis]
        for entry in study.entries:
            levels = {name: entry.axes[name] for name in others}
            groups["-".join(levels.values())] = study.title_of(levels)
        for label in study.levels[ladder_axis]:
            groups.setdefault(label, study.title(ladder_axis, label))
    groups |= distinct({row.group: NPROC.sub("", study.entry_title(row.entry)) for row in scaling})
    return {name: title for name, title in groups.items() if name}


def _tuned(study: StudyResults) -> dict[str, str]:
    """Return the titles of the entries that a tuning tries, without their level on its axis."""
    levels: dict[str, dict[str, str]] = {}
    for run in study.trials:
        trial = run.spec.tuning
        if trial is not None:
            labels = run.labels.items()
            levels[trial.entry] = {axis: label for axis, label in labels if axis != TUNING}
    found: dict[str, dict[str, str]] = {}
    for run in study.trials:
        for axis, choice in run.spec.axes.items():
            found.setdefault(axis, {})[choice.label] = choice.title
    return of_entries(levels, {axis: distinct(titles) for axis, titles in found.items()})
