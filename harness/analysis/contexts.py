"""Compare the contexts of a study: the baseline in each of them, and the range over all entries."""

from collections.abc import Mapping

from harness.analysis import machines, metrics
from harness.analysis.candidates import Candidate, collapsed_axes, find_candidates
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.equivalence import STATUSES
from harness.results.records.contexts import ContextResult
from harness.results.records.entries import EntryResult
from harness.results.records.estimates import Ratio
from harness.results.records.tuning import TUNED, TUNING
from harness.results.titles import SEPARATOR

Labels = tuple[str, ...]  # on the compared axes


def compared_axes(study: StudyResults) -> list[str]:
    """Return the axes whose levels are compared as contexts; tuning has a section of its own."""
    return [axis for axis in collapsed_axes(study) if axis != TUNING]


def entries_by_context(study: StudyResults) -> dict[Labels, dict[Labels, Entry]]:
    """Return the entry of each candidate in each context, contexts in the order of their levels.

    Both keys are labels: those on the compared axes, and those on the axes that do not collapse.
    Of a study that tunes, only tuned entries count.
    """
    axes = compared_axes(study)
    found: dict[Labels, dict[Labels, Entry]] = {}
    for candidate in find_candidates(study):
        for entry in candidate.entries:
            if entry.axes.get(TUNING, TUNED) == TUNED:
                labels = tuple(entry.axes[axis] for axis in axes)
                found.setdefault(labels, {})[tuple(candidate.levels.values())] = entry

    def place(labels: Labels) -> list[int]:
        positions = zip(axes, labels, strict=True)
        return [study.levels[axis].index(label) for axis, label in positions]

    return {labels: found[labels] for labels in sorted(found, key=place)}


def baseline_candidate(study: StudyResults) -> Candidate | None:
    """Return the candidate with the baseline's labels, else the first one; None without entries."""
    candidates = find_candidates(study)
    for candidate in candidates:
        if candidate.levels.items() <= study.baseline.items():
            return candidate
    return candidates[0] if candidates else None


def compare_contexts(
    study: StudyResults, results: Mapping[str, EntryResult]
) -> list[ContextResult]:
    """Return the results of each context; none if no axis collapses."""
    axes = compared_axes(study)
    baseline = baseline_candidate(study)
    if not axes or baseline is None:
        return []
    by_context = entries_by_context(study)
    own = tuple(baseline.levels.values())
    reference = tuple(baseline.main.axes[axis] for axis in axes)
    references = by_context.get(reference, {})
    rows = []
    for labels, entries in by_context.items():
        levels = dict(zip(axes, labels, strict=True))
        is_reference = labels == reference
        rows.append(_context(levels, is_reference, own, entries, references, results))
    return rows


def _context(
    levels: dict[str, str],
    is_reference: bool,
    baseline: Labels,
    entries: Mapping[Labels, Entry],
    references: Mapping[Labels, Entry],
    results: Mapping[str, EntryResult],
) -> ContextResult:
    own = entries.get(baseline)
    result = results[own.label] if own else None
    base = references.get(baseline)
    pairs = [(entry, references[key]) for key, entry in entries.items() if key in references]
    speeds = [_speed_ratio(entry, other, results) for entry, other in pairs]
    speed_ratios = [ratio.ratio for ratio in speeds if ratio]
    memories = [_memory_ratio(entry, other) for entry, other in pairs]
    memory_ratios = [ratio for ratio in memories if ratio]
    statuses = [results[entry.label].equivalence for entry in entries.values()]
    checked = [status for status in statuses if status]
    return ContextResult(
        context=SEPARATOR.join(levels.values()),
        levels=levels,
        is_reference=is_reference,
        entry=own.label if own else None,
        n_entries=len(entries),
        equivalence=max(checked, key=STATUSES.index, default=None),
        diverging=[
            entry.label
            for entry in entries.values()
            if results[entry.label].equivalence == metrics.DIVERGES
        ],
        val_loss=result.val_loss if result else None,
        tokens_per_s=result.tokens_per_s if result else None,
        tokens_per_s_ratio=_speed_ratio(own, base, results) if own and base else None,
        lowest_tokens_per_s_ratio=min(speed_ratios, default=None),
        highest_tokens_per_s_ratio=max(speed_ratios, default=None),
        peak_memory_bytes=result.peak_memory_bytes if result else None,
        peak_memory_ratio=_memory_ratio(own, base) if own and base else None,
        lowest_peak_memory_ratio=min(memory_ratios, default=None),
        highest_peak_memory_ratio=max(memory_ratios, default=None),
        sent_bytes=result.traffic.sent_bytes if result and result.traffic else None,
        waiting_fraction=result.phases.waiting_fraction if result and result.phases else None,
    )


def _speed_ratio(entry: Entry, base: Entry, results: Mapping[str, EntryResult]) -> Ratio | None:
    """Return the ratio of the throughputs on common seeds; none if one of the two diverges."""
    if any(results[one.label].equivalence == metrics.DIVERGES for one in (entry, base)):
        return None
    if entry is base:
        return None
    return metrics.speed_ratio(*machines.comparable_runs(entry, base, machines.speed_reason))


def _memory_ratio(entry: Entry, base: Entry) -> float | None:
    if entry is base:
        return None
    return metrics.memory_ratio(*machines.comparable_runs(entry, base, machines.memory_reason))
