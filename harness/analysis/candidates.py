"""Collapse entries that differ only on context axes, as a study asks about them: one row each."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.metrics import PARALLELISM
from harness.results.records.tuning import TUNED, TUNING
from harness.results.titles import distinct


@dataclass(frozen=True)
class Candidate:
    """One combination of levels on the asked axes, with its entries in all contexts.

    `main` represents all: it is the entry in the baseline's context, or in another one if only that
    has results, with the parallelism of the baseline's: costs of another one are not comparable.
    `levels` has the label on each axis that does not collapse, `title` is what people read.
    """

    levels: Mapping[str, str]
    entries: tuple[Entry, ...]
    main: Entry
    title: str = ""


def collapsed_axes(study: StudyResults) -> list[str]:
    """Return the varying axes that collapse: the context axes and the parallelism.

    The parallelism does not change the losses. It is what the study asks about only if no other
    asked axis varies.
    """
    asked = [axis for axis in study.asked if axis != PARALLELISM]
    if not asked:
        return study.contexts
    return [axis for axis in study.varying() if axis not in asked]


def find_candidates(study: StudyResults) -> list[Candidate]:
    """Return the candidates in the study's order, the baseline first if it has runs."""
    collapsed = collapsed_axes(study)
    kept = [axis for axis in study.varying() if axis not in collapsed]
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in study.entries:
        groups.setdefault(tuple(entry.axes[axis] for axis in kept), []).append(entry)
    context = {axis: study.baseline.get(axis, "") for axis in collapsed}
    if TUNING in context:
        context[TUNING] = TUNED
    baseline = groups.get(tuple(study.baseline.get(axis, "") for axis in kept), [])
    done = [entry for entry in baseline if entry.done]
    parallelism = None  # of all candidates
    if done and PARALLELISM in collapsed:
        main = min(done, key=lambda entry: _distance(entry, context))
        parallelism = context[PARALLELISM] = main.axes[PARALLELISM]
    candidates = []
    for labels, entries in groups.items():
        like_baseline = [e for e in entries if e.axes.get(PARALLELISM) == parallelism]
        main = min(like_baseline or entries, key=lambda entry: _distance(entry, context))
        levels = dict(zip(kept, labels, strict=True))
        title = study.title_of(levels) or main.title
        candidates.append(Candidate(levels, tuple(entries), main, title))
    titles = distinct({candidate.main.label: candidate.title for candidate in candidates})
    return [replace(one, title=titles[one.main.label]) for one in candidates]


def without_copies(study: StudyResults) -> list[Entry]:
    """Return the entries without those that differ from another only in the parallelism.

    Of these, the one with the parallelism of its candidate's main entry represents all; so does the
    first one where that is missing. If only the parallelism varies, all entries are returned.
    """
    if PARALLELISM not in collapsed_axes(study):
        return list(study.entries)
    kept: set[str] = set()
    for candidate in find_candidates(study):
        chosen: dict[tuple[str, ...], Entry] = {}
        for entry in candidate.entries:
            key = tuple(label for axis, label in entry.axes.items() if axis != PARALLELISM)
            is_like_main = entry.axes[PARALLELISM] == candidate.main.axes[PARALLELISM]
            if key not in chosen or is_like_main:
                chosen[key] = entry
        kept.update(entry.label for entry in chosen.values())
    return [entry for entry in study.entries if entry.label in kept]


def candidate_positions(study: StudyResults) -> dict[str, int]:
    """Return the position of each entry's candidate by the entry's label; the baseline has 0.

    If there is one candidate, each entry has its own.
    """
    candidates = find_candidates(study)
    groups = [candidate.entries for candidate in candidates]
    if len(groups) == 1:
        groups = [(entry,) for entry in study.entries]
    baseline = {axis: label for axis, label in study.baseline.items() if axis in study.asked}

    def is_other(entries: tuple[Entry, ...]) -> bool:
        return not any(baseline.items() <= entry.axes.items() for entry in entries)

    groups.sort(key=is_other)
    return {entry.label: i for i, entries in enumerate(groups) for entry in entries}


def _distance(entry: Entry, context: Mapping[str, str]) -> tuple[bool, int]:
    """Return a sort key: entries with results first, then by axes on which the context differs."""
    differing = sum(entry.axes[axis] != label for axis, label in context.items())
    return not entry.done, differing
