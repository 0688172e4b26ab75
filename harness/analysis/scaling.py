"""How speed grows with the number of processes, where a study has a parallelism at several."""

import json
from dataclasses import dataclass

import numpy as np

from harness.analysis import intervals as statistics
from harness.analysis import metrics as results
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.equivalence import reference, world_size
from harness.analysis.intervals import Median, Ratio
from harness.analysis.metrics import PARALLELISM, EquivalenceStatus

NONE = Ratio(1.0, (1.0, 1.0))  # the speed-up of what others are compared with


@dataclass(frozen=True)
class ScalingRow:
    """One entry among those that differ in the number of processes alone; `group` names what they share.

    `speedup` is its throughput over that of `against`, which runs on `against_world_size` processes; `efficiency` is the
    speed-up over how many times as many processes it has.
    """

    group: str
    entry: str
    world_size: int
    tokens_per_s: Median
    against: str
    against_world_size: int
    speedup: Ratio
    efficiency: float


def scaling(study: StudyResults, verdicts: dict[str, EquivalenceStatus]) -> list[ScalingRow]:
    """Compare all entries of each parallelism that runs on several numbers of processes, but for those that diverge.

    They are compared with their own kind on one process, else with another entry on one process, else with the fewest.
    """
    rows: list[ScalingRow] = []
    groups = _groups(
        study,
        [
            e
            for e in study.entries
            if verdicts.get(e.label) != results.DIVERGES and results.timed(e.done)
        ],
    )
    for name, entries in groups.items():
        entries = sorted(entries, key=world_size)
        if len({world_size(entry) for entry in entries}) < 2:
            continue
        single = reference(study, entries[-1])
        usable = single and world_size(single) == 1 and results.timed(single.done)
        if world_size(entries[0]) > 1 and single and usable:
            entries = [single, *entries]
        rows += [_scale(name, entry, entries[0]) for entry in entries]
    return rows


def _groups(study: StudyResults, entries: list[Entry]) -> dict[str, list[Entry]]:
    """Return the entries that differ in the number of processes alone, by a name; options are in it where they must."""
    by_name: dict[str, dict[str, list[Entry]]] = {}
    for entry in entries:
        choice = entry.runs[0].spec.axes.get(PARALLELISM)
        options = {
            key: value
            for key, value in (choice.options if choice else {}).items()
            if key != "nproc"
        }
        others = [entry.axes[axis] for axis in study.varying() if axis != PARALLELISM]
        alike = by_name.setdefault(" · ".join([*others, choice.name if choice else ""]), {})
        alike.setdefault(json.dumps(options, sort_keys=True), []).append(entry)
    return {
        name if len(alike) == 1 else f"{name} {options}": group
        for name, alike in by_name.items()
        for options, group in alike.items()
    }


def _scale(group: str, entry: Entry, base: Entry) -> ScalingRow:
    step_s = results.timed(entry.done)
    n, n_base = world_size(entry), world_size(base)
    speedup = _speedup(entry, base) if entry is not base else NONE
    return ScalingRow(
        group=group,
        entry=entry.label,
        world_size=n,
        tokens_per_s=statistics.rate(int(entry.done[0].steps.tokens[0]), statistics.median(step_s)),
        against=base.label,
        against_world_size=n_base,
        speedup=speedup,
        efficiency=speedup.ratio / (n / n_base),
    )


def _speedup(entry: Entry, base: Entry) -> Ratio:
    """Return the ratio of the speeds, from the seeds that both have; from all of both where they share none."""
    of_entry, of_base = (
        {run.seed: run.timed_step_s for run in e.done if len(run.timed_step_s)}
        for e in (entry, base)
    )
    seeds = [seed for seed in of_entry if seed in of_base]
    if seeds:
        return statistics.ratio_of_medians(
            [of_base[seed] for seed in seeds], [of_entry[seed] for seed in seeds]
        )
    together = (np.concatenate(list(steps.values())) for steps in (of_base, of_entry))
    return statistics.ratio_of_medians(*([steps] for steps in together))
