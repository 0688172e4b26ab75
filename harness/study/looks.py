"""Plan the looks of a study that adds seeds only to the entries that need them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.errors import Problem, UserError
from harness.results.records import ALL_QUESTIONS, LookPlan
from harness.results.records.base import SEEDS_END
from harness.study.axes import VariantSelection
from harness.study.study_file import StudyFile

GROWTH = 1.5  # of the number of seeds from look to look
MIN_GROWTH = 1.25  # of the number of seeds at the last look
FIRST = 3  # seeds at the first look, at least, if the study states no looks
MIN_SEEDS = 2  # that have a verdict
OPEN_END = 100  # seeds that a study without a stated end does not exceed


@dataclass(frozen=True)
class UntilResolved:
    """The request of `run --until resolved`; `max_seeds` is the stated end, None without one.

    If it is not `requested`, `max_seeds` changes the end of the looks that the study states.
    """

    max_seeds: int | None = None
    requested: bool = True


def plan_looks(
    file: StudyFile, location: str, until: UntilResolved | None, has_seeds: bool
) -> tuple[LookPlan | None, list[Problem]]:
    """Return the planned looks, None if the number of seeds is fixed, and all problems.

    A study that states looks has them without a request. `has_seeds`: the command line chooses the
    seeds, so that their number is fixed.
    """
    study = file.study
    problems = list(_check_looks(file, f"{location}: study", has_seeds))
    if until is None and study.looks is None:
        if study.questions is not None:
            reason = "only entries that wait for verdicts have questions; state looks, or remove it"
            problems.append(Problem(f"{location}: study.questions", reason))
        return None, problems
    if until is not None and not until.requested and study.looks is None:
        reason = "the study states no looks; add --until resolved, or use --seeds"
        return None, [*problems, Problem("--max-seeds", reason)]
    problems += _check_kind(file, location)
    if until is not None and has_seeds:
        reason = "chooses the seeds, and so do looks; omit it, or --until and --max-seeds"
        problems.append(Problem("--seeds", reason))
    if problems or (until is None and has_seeds):
        return None, problems
    own_seeds = list(dict.fromkeys(study.seeds))
    looks = list(study.looks or [max(FIRST, len(own_seeds))])
    end = until.max_seeds if until is not None else None
    if end is not None and end < looks[0]:
        reason = f"{end}: the first look has {looks[0]} seeds; allowed: at least {looks[0]}"
        return None, [Problem("--max-seeds", reason)]
    open_ended = end is None and study.looks is None
    if end is not None or open_ended:
        looks = _grown(looks, end or max(OPEN_END, looks[0]), reaches_end=not open_ended)
    plan = LookPlan(
        seeds=_seeds(own_seeds, looks[-1]),
        looks=looks,
        open_ended=open_ended,
        questions=list(dict.fromkeys(study.questions or ALL_QUESTIONS)),
    )
    return plan, []


def _check_looks(file: StudyFile, location: str, has_seeds: bool) -> Iterator[Problem]:
    """The stated looks rise, and use all seeds that the study states."""
    looks = file.study.looks
    if looks is None:
        return
    if looks[0] < MIN_SEEDS:
        reason = f"one seed has no verdict; allowed: at least {MIN_SEEDS}"
        yield Problem(f"{location}.looks[0]", f"{looks[0]}: {reason}")
    for i, (before, number) in enumerate(itertools.pairwise(looks), start=1):
        if number <= before:
            reason = f"must be above {before}, the number of seeds at the look before"
            yield Problem(f"{location}.looks[{i}]", f"{number}: {reason}")
    n_seeds = len(set(file.study.seeds))
    if n_seeds > looks[-1] and not has_seeds:
        yield Problem(
            f"{location}.seeds",
            f"{n_seeds} seeds, and the last look has {looks[-1]}; allowed: at most {looks[-1]}, "
            "the looks count on from the last one",
        )
    if looks[-1] > SEEDS_END // 2:
        reason = f"allowed: at most {SEEDS_END // 2:,} seeds"
        yield Problem(f"{location}.looks[{len(looks) - 1}]", f"{looks[-1]}: {reason}")


def _check_kind(file: StudyFile, location: str) -> Iterator[Problem]:
    """The study has no results that need the same seeds of every entry."""
    reasons: Mapping[str, tuple[bool, str]] = {
        "tune": (file.tune is not None, "tuned and untuned entries are compared on equal seeds"),
        "ladder": (file.ladder is not None, "scaling laws are fitted to equal seeds of all sizes"),
        "study.cross_seeds": (
            file.study.cross_seeds,
            "variance components are estimated from equal seeds of all entries",
        ),
    }
    for key, (is_stated, reason) in reasons.items():
        if is_stated:
            remedy = "fix the number of seeds: remove study.looks and --until resolved"
            yield Problem(f"{location}: {key}", f"not with looks: {reason}; {remedy}")


def _grown(looks: list[int], end: int, reaches_end: bool) -> list[int]:
    """Return the looks up to `end`, with others that grow by half."""
    kept = [number for number in looks if number <= end]
    while True:
        following = max(kept[-1] + 1, int(kept[-1] * GROWTH + 0.5))
        if following > end or (reaches_end and following * MIN_GROWTH > end):
            break
        kept.append(following)
    if reaches_end and kept[-1] < end:
        kept.append(end)
    return kept


def _seeds(own: list[int], n_seeds: int) -> list[int]:
    """Return the study's seeds, and then the unused ones that follow the largest of them."""
    seeds = own[:n_seeds]
    candidates = (number % SEEDS_END for number in itertools.count(max(own) + 1))
    unused = (seed for seed in candidates if seed not in own)
    return [*seeds, *itertools.islice(unused, n_seeds - len(seeds))]


def check_selection(
    selected: Sequence[VariantSelection], baseline: VariantSelection, compare: Sequence[str] | None
) -> None:
    """Check that the selected entries include a baseline, with which they are compared.

    Raises:
        UserError: they do not.
    """
    labels = {axis: choice.label for axis, choice in baseline.items()}
    asked = [axis for axis in labels if compare is None or axis in compare]
    for entry in selected:
        if all(entry[axis].label == labels[axis] for axis in asked):
            return
    raise UserError(
        "--where: leaves out the baseline, with which each look compares the entries; add "
        f"{', '.join(f'{axis}={labels[axis]}' for axis in asked)}, or omit --until and study.looks"
    )
