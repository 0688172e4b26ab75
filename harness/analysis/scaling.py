"""Throughput as a function of the number of processes, for a parallelism that runs on several."""

import json
from collections.abc import Mapping

import numpy as np

from harness.analysis import intervals, machines
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.equivalence import reference, world_size
from harness.analysis.metrics import DIVERGES, PARALLELISM, timed
from harness.results.records.entries import EquivalenceStatus
from harness.results.records.estimates import Ratio
from harness.results.records.study_summary import ScalingRow

NO_SPEEDUP = Ratio(ratio=1.0, ci95=None)  # of the entry that others are compared with


def scaling(study: StudyResults, statuses: Mapping[str, EquivalenceStatus]) -> list[ScalingRow]:
    """Compare the entries of each parallelism that has several numbers of processes.

    The reference is the same parallelism on one process, else another entry on one process, else
    the entry with the fewest processes. Entries that diverge, or ran on other machines than the
    reference, are omitted.
    """
    measured = [
        entry
        for entry in (() if study.imported else study.entries)
        if statuses.get(entry.label) != DIVERGES and timed(entry.done)
    ]
    rows: list[ScalingRow] = []
    for name, group in _groups(study, measured).items():
        entries = sorted(group, key=world_size)
        if len({world_size(entry) for entry in entries}) < 2:
            continue
        single = reference(study, entries[-1])
        usable = single and world_size(single) == 1 and timed(single.done)
        if world_size(entries[0]) > 1 and single and usable:
            entries = [single, *entries]
        entries = machines.on_equal_machines(entries, entries[0])
        if len({world_size(entry) for entry in entries}) > 1:
            rows += [_row(name, entry, entries[0]) for entry in entries]
    return rows


def _groups(study: StudyResults, entries: list[Entry]) -> dict[str, list[Entry]]:
    """Return the entries that differ only in the number of processes, by the name of their group.

    The name includes the parallelism's options if other groups have the same labels.
    """
    other_axes = [axis for axis in study.varying() if axis != PARALLELISM]
    by_name: dict[str, dict[str, list[Entry]]] = {}
    for entry in entries:
        choice = entry.runs[0].spec.axes.get(PARALLELISM)
        options = dict(choice.options) if choice else {}
        options.pop("nproc", None)
        labels = [*(entry.axes[axis] for axis in other_axes), choice.name if choice else ""]
        by_options = by_name.setdefault(" · ".join(labels), {})
        by_options.setdefault(json.dumps(options, sort_keys=True), []).append(entry)
    groups = {}
    for name, by_options in by_name.items():
        for options_text, group in by_options.items():
            groups[name if len(by_options) == 1 else f"{name} {options_text}"] = group
    return groups


def _row(group: str, entry: Entry, base: Entry) -> ScalingRow:
    n_processes = world_size(entry)
    n_base = world_size(base)
    speedup = _speedup(entry, base) if entry is not base else NO_SPEEDUP
    step_s = intervals.median(timed(entry.done))
    ideal = n_processes / n_base
    efficiency_ci95 = None
    if speedup.ci95 is not None:
        low, high = speedup.ci95
        efficiency_ci95 = (low / ideal, high / ideal)
    tokens = entry.done[0].tokens_per_step
    assert tokens is not None
    return ScalingRow(
        group=group,
        entry=entry.label,
        world_size=n_processes,
        tokens_per_s=intervals.rate(tokens, step_s),
        against=base.label,
        against_world_size=n_base,
        speedup=speedup,
        efficiency=speedup.ratio / ideal,
        efficiency_ci95=efficiency_ci95,
    )


def _speedup(entry: Entry, base: Entry) -> Ratio:
    """Return the ratio of the speeds, paired by the seeds that both have; unpaired without any."""
    steps = _timed_by_seed(entry)
    base_steps = _timed_by_seed(base)
    seeds = [seed for seed in steps if seed in base_steps]
    if seeds:
        return intervals.ratio_of_medians(
            [base_steps[seed] for seed in seeds], [steps[seed] for seed in seeds]
        )
    return intervals.ratio_of_unpaired_medians(list(base_steps.values()), list(steps.values()))


def _timed_by_seed(entry: Entry) -> dict[int, np.ndarray]:
    return {run.seed: run.timed_step_s for run in entry.done if len(run.timed_step_s)}
