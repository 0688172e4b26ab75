"""Reasons not to take a result at face value: each source yields the caveats of a study."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from harness.analysis import (
    comparability,
    compilation,
    flops,
    looks,
    lost_seeds,
    machines,
    outdated,
    overfitting,
    plausibility,
    stability,
)
from harness.analysis.dataset import StudyResults
from harness.results.records.caveats import Caveat, CaveatKind


def allowed_violations(study: StudyResults) -> Iterator[Caveat]:
    """Yield the violations of the variants' contract that the study permits."""
    for entry in study.entries:
        found = {
            (violation.kind, violation.message)
            for run in (*entry.runs, *entry.crossed)
            for violation in ([] if run.imported else run.resolved.allowed)
        }
        for kind, message in sorted(found):
            yield Caveat(kind=kind, entry=entry.label, message=f"{message}; the study permits it")


# Each returns the caveats of one kind, in the order of the entries.
SOURCES: Sequence[Callable[[StudyResults], Iterator[Caveat]]] = (
    allowed_violations,
    lost_seeds.caveats,
    outdated.caveats,
    plausibility.caveats,
    stability.caveats,
    overfitting.caveats,
    compilation.caveats,
    flops.caveats,
    comparability.caveats,
    machines.caveats,
    looks.caveats,
)


LEAKS: Sequence[CaveatKind] = ("non-causal", "below-entropy")  # losses of no causal model
# Kinds that are stamped on an entry wherever a report names it.
STAMPED: Sequence[CaveatKind] = (
    "non-causal",
    "outdated",
    "below-entropy",
    "unstable",
    "not-compiled",
    "other-budget",
    "lost-seeds",
    "overfitting",
)


def find_caveats(study: StudyResults) -> list[Caveat]:
    """Return all caveats of a study."""
    return [caveat for source in SOURCES for caveat in source(study)]


def shared_kinds(caveats: Sequence[Caveat], labels: Collection[str]) -> list[CaveatKind]:
    """Return the stamped kinds that all of several entries have."""
    kinds = kinds_by_entry(caveats)
    if len(labels) < 2:
        return []
    return [kind for kind in STAMPED if all(kind in kinds.get(label, ()) for label in labels)]


def kinds_by_entry(caveats: Sequence[Caveat]) -> Mapping[str, list[CaveatKind]]:
    """Return the kinds of the caveats of each entry that has any, each kind once."""
    kinds: dict[str, list[CaveatKind]] = {}
    for caveat in caveats:
        if caveat.entry is None:
            continue
        of_entry = kinds.setdefault(caveat.entry, [])
        if caveat.kind not in of_entry:
            of_entry.append(caveat.kind)
    return kinds


def find_stamps(caveats: Sequence[Caveat]) -> dict[str, str]:
    """Return the stamp of each entry that has a caveat of a kind in `STAMPED`: ` [unstable]`."""
    stamps = {}
    for entry, kinds in kinds_by_entry(caveats).items():
        words = [kind for kind in kinds if kind in STAMPED]
        if words:
            stamps[entry] = f" [{', '.join(words)}]"
    return stamps
