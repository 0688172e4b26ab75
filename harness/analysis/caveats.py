"""Reasons not to take a result at face value: each source yields the caveats of a study."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from harness.analysis import compilation, flops, outdated, plausibility, stability
from harness.analysis.dataset import StudyResults
from harness.results.records.study_summary import Caveat, CaveatKind

# Each returns the caveats of one kind, in the order of the entries.
SOURCES: Sequence[Callable[[StudyResults], Iterator[Caveat]]] = (
    outdated.caveats,
    plausibility.caveats,
    stability.caveats,
    compilation.caveats,
    flops.caveats,
)


def find_caveats(study: StudyResults) -> list[Caveat]:
    """Return all caveats of a study."""
    return [caveat for source in SOURCES for caveat in source(study)]


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
