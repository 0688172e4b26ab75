"""Lost seeds: runs that failed. The seeds that are left are a selection, which favours their entry.

A run fails where its entry trains badly, so that the mean over the other seeds is better than that
of all seeds. An entry with a lost seed is therefore not ranked, has no cost, and gains no verdict,
unless all entries it is compared with lost the same seeds.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from harness.analysis import intervals
from harness.analysis.dataset import Entry, StudyResults
from harness.results.records.caveats import Caveat
from harness.results.records.estimates import Mean
from harness.results.run_data import RunData


def selected(entries: Iterable[Entry]) -> set[str]:
    """Return the labels of the entries whose seeds are a selection: those that lost a seed.

    Empty if all of these entries lost the same seeds: then the same seeds are left of each.
    """
    lost = {entry.label: frozenset(entry.lost_seeds) for entry in entries}
    if len(set(lost.values())) <= 1:
        return set()
    return {label for label, seeds in lost.items() if seeds}


def mean(entry: Entry, values: Sequence[float]) -> Mean:
    """Return the mean over an entry's seeds, without its interval if it lost any."""
    found = intervals.mean(values)
    return found.model_copy(update={"ci95": None}) if entry.lost_seeds else found


def mean_difference(
    entry: Entry, base: Entry, values: Mapping[int, float], base_values: Mapping[int, float]
) -> Mean | None:
    """Return the mean paired difference, without its interval if seeds are a selection."""
    difference = intervals.mean_difference(values, base_values)
    if difference is None or not selected((entry, base)):
        return difference
    return difference.model_copy(update={"ci95": None})


def caveats(study: StudyResults) -> Iterator[Caveat]:
    """Yield a caveat for each entry that lost a seed, with the reasons."""
    for entry in study.entries:
        lost = entry.lost_seeds
        if not lost:
            continue
        reasons = [_reason(run) for run in entry.runs if run.seed in lost]
        left = len(entry.runs) - len(lost)
        rest = "no seed is left"
        if left:
            rest = f"the other seeds ({left} of {len(entry.runs)}) are a selection"
        message = f"{'; '.join(reasons)}; {rest}"
        yield Caveat(kind="lost-seeds", entry=entry.label, message=message)


def _reason(run: RunData) -> str:
    """Return the outcome of a failed run: seed 1 failed (nan: the loss is not finite)."""
    parts = ": ".join(part for part in (run.reason, run.message) if part)
    return f"seed {run.seed} failed" + (f" ({parts})" if parts else "")
