"""The curves of a ladder: which entries form one, and which curves are fitted together.

Entries with equal labels on all axes but the ladder's form a curve. Compute is FLOPs per token,
which may differ between variants, times training tokens.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.analysis import comparability
from harness.analysis.dataset import Entry, StudyResults
from harness.results.records import LadderSettings
from harness.results.records.ladder import Scale
from harness.results.run_data import RunData

Array = NDArray[np.float64]

MIN_SIZES = 3  # of a curve: a law has three parameters
SAME_SIZE = 0.01  # relative: amounts that differ by no more are one size


def _flops(run: RunData) -> float:
    return run.known_flops_per_token * _tokens(run)


def _tokens(run: RunData) -> float:
    return float(run.n_tokens or 0)


@dataclass(frozen=True)
class Curve:
    """The entries of one curve by size; `against` is the label of its baseline, None for one."""

    label: str
    entries: dict[str, Entry]
    against: str | None

    def amount(self, scale: Scale, size: str) -> float:
        """Return the FLOPs, parameters or tokens at a size, NaN without a finished run."""
        entry = self.entries.get(size)
        if entry is None or not entry.done:
            return math.nan
        run = entry.done[0]
        if scale == "parameters":
            return float(run.measured.parameters)
        return _flops(run) if scale == "flops" else _tokens(run)

    @cached_property
    def sizes(self) -> list[str]:
        """The sizes that have a finished run."""
        return [size for size, entry in self.entries.items() if entry.done]


def settings(study: StudyResults) -> LadderSettings | None:
    """Return the ladder of the newest launch, else that of the only context axis of sizes.

    A study file that is followed states the ladder in place of the launches.
    """
    if study.followed is not None and study.followed.stated.file.ladder is not None:
        return study.followed.stated.file.ladder
    for launch in study.own_launches if study.followed is None else ():
        if launch.ladder is not None:
            return launch.ladder
    axes = [axis for axis in study.contexts if _is_ladder(study, axis)]
    return LadderSettings(axis=axes[0]) if len(axes) == 1 else None


def _is_ladder(study: StudyResults, axis: str) -> bool:
    """Return whether an axis varies settings over three sizes or more."""
    flops: dict[str, float] = {}
    for entry in study.entries:
        choice = entry.runs[0].spec.axes.get(axis)
        if choice is None or not choice.is_setting:
            return False
        if entry.done:
            flops.setdefault(entry.axes[axis], _flops(entry.done[0]))
    return n_distinct(list(flops.values())) >= MIN_SIZES


def n_distinct(amounts: list[float]) -> int:
    """Return the number of amounts that differ by more than `SAME_SIZE`."""
    ordered = np.sort(amounts)
    return int((np.diff(np.log(ordered)) > math.log1p(SAME_SIZE)).sum()) + 1 if amounts else 0


def exclusion(curve: Curve, leaking: Collection[str]) -> str | None:
    """Return why a curve has no law, None if it has one."""
    done = [curve.entries[size] for size in curve.sizes]
    if any(entry.label in leaking for entry in done):
        return "it sees later tokens"
    if n_distinct([curve.amount("flops", size) for size in curve.sizes]) < MIN_SIZES:
        return "fewer than three sizes are done"
    for entry in done[1:]:
        if not comparability.in_nats(entry, done[0]):
            reason = comparability.of_entries(entry, done[0]).reason or "other tokenizer"
            return f"the losses of its sizes are not comparable: {reason}"
    return None


def by_unit(curves: list[Curve]) -> list[list[Curve]]:
    """Return the curves grouped so that the losses in a group are comparable."""
    groups: list[list[Curve]] = []
    for curve in curves:
        entry = curve.entries[curve.sizes[0]]
        for group in groups:
            if comparability.in_nats(entry, group[0].entries[group[0].sizes[0]]):
                group.append(curve)
                break
        else:
            groups.append([curve])
    return groups


def by_context(study: StudyResults, axis: str) -> list[list[Curve]]:
    """Return the curves of each context."""
    others = [name for name in study.varying() if name != axis]
    contexts = [name for name in study.contexts if name != axis]
    by_labels: dict[tuple[str, ...], dict[str, Entry]] = {}
    for entry in study.entries:
        labels = tuple(entry.axes[name] for name in others)
        by_labels.setdefault(labels, {})[entry.axes[axis]] = entry
    families: dict[tuple[str, ...], list[Curve]] = {}
    for labels, entries in by_labels.items():
        first = next(iter(entries.values()))
        base = study.baseline_of(first)
        against = None
        if base is not None and base.axes[axis] == first.axes[axis]:
            against = _name(study, [base.axes[name] for name in others])
        context = tuple(first.axes[name] for name in contexts)
        curve = Curve(_name(study, labels), entries, against)
        families.setdefault(context, []).append(curve)
    return list(families.values())


def _name(study: StudyResults, labels: Collection[str]) -> str:
    return "-".join(labels) or study.name


def ordered_sizes(curves: list[Curve]) -> list[str]:
    """Return the sizes that any curve has, by their FLOPs."""
    flops: dict[str, float] = {}
    for curve in curves:
        for size in curve.sizes:
            flops.setdefault(size, curve.amount("flops", size))
    return sorted(flops, key=flops.__getitem__)


def final_losses(curves: list[Curve], sizes: list[str]) -> Array:
    """Return the final losses, (n_curves, n_sizes, n_seeds), NaN without a finished run."""
    seeds: set[int] = set()
    for curve in curves:
        for entry in curve.entries.values():
            seeds.update(run.seed for run in entry.done)
    column = {seed: k for k, seed in enumerate(sorted(seeds))}
    found = np.full((len(curves), len(sizes), len(seeds)), np.nan)
    for i, curve in enumerate(curves):
        for j, size in enumerate(sizes):
            for run in curve.entries[size].done if size in curve.entries else ():
                found[i, j, column[run.seed]] = run.final_loss
    return found
