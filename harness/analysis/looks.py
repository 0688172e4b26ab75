"""Find the looks at the results of a study: planned ones, and those of seeds added by hand.

`launches.jsonl` has the runs that each launch asked for, and the planned looks if there are any. If
a launch asks for other seeds than those before it, or has another plan, and seeds had results by
then, these results may have been the reason: they are an unplanned look.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from harness.analysis.significance import ALPHA
from harness.results.records import ENDED, LaunchRecord, Look, LookPlan, Looks
from harness.results.records.caveats import Caveat
from harness.results.run_data import RunData

if TYPE_CHECKING:
    from harness.analysis.dataset import StudyResults

MIN_SEEDS = 2  # of results from which anything can be concluded


def levels(n_looks: int, has_end: bool) -> list[float]:
    """Return the level of each look; they add up to at most `ALPHA`.

    With a stated end, the level is divided equally over the planned looks. Without one, look k has
    `ALPHA` / (k (k + 1)), whose sum over all k is `ALPHA`.
    """
    if has_end:
        return [ALPHA / n_looks] * n_looks
    return [ALPHA / (look * (look + 1)) for look in range(1, n_looks + 1)]


def caveats(study: "StudyResults") -> Iterator[Caveat]:
    """Yield that seeds were added, or looks planned, when results could be seen."""
    looks = study.looks
    if looks is not None and not looks.planned:
        counts = ", ".join(str(len(look.seeds)) for look in looks.looks)
        shown = ", ".join(f"{look.level:.2g}" for look in looks.looks)
        yield Caveat(
            kind="unplanned-look",
            entry=None,
            message=f"results were there when the number of seeds or the plan of looks changed; "
            f"looks at {counts} seeds have the levels {shown}: 0.05/(k(k+1)) for look k",
        )


def find_looks(launches: Sequence[LaunchRecord], runs: Iterable[RunData]) -> Looks | None:
    """Return all looks at these runs of a study, None without runs."""
    log = _LaunchLog({run.run_id: run for run in runs})
    for launch in launches:
        log.add(launch)
    return log.looks()


def n_complete(looks: Looks, runs: Sequence[RunData]) -> int:
    """Return the number of looks whose runs have all ended, from the first on.

    A look that no run was asked for is not complete: no entry continued to it. At a planned look,
    an entry has all seeds, also if runs that were not started are no longer stored.
    """
    asked = {run.seed for run in runs}
    waiting = {run.seed for run in runs if run.status not in ENDED}
    by_entry: dict[str, set[int]] = {}
    for run in runs:
        by_entry.setdefault(run.spec.entry, set()).add(run.seed)
    before: set[int] = set()
    for number, look in enumerate(looks.looks):
        seeds = set(look.seeds)
        new = seeds - before
        if asked.isdisjoint(new) or not waiting.isdisjoint(seeds):
            return number
        has_gaps = any(own & new and not seeds <= own for own in by_entry.values())
        if looks.planned and not looks.is_fixed and has_gaps:
            return number
        before = seeds
    return len(looks.looks)


class _LaunchLog:
    """Reads the launches of a study in order. `runs` are its runs by id."""

    def __init__(self, runs: dict[str, RunData]) -> None:
        self._runs = runs
        self._asked: set[str] = set()
        self._plan: LookPlan | None = None
        self._sets: list[list[int]] = []  # seeds of the looks before the present plan
        self._is_planned = True

    def add(self, launch: LaunchRecord) -> None:
        """Read the next launch."""
        asked = {run_id for run_id in (*launch.order, *launch.not_started) if run_id in self._runs}
        if not asked:
            return
        seeds = {self._runs[run_id].seed for run_id in asked}
        allowed = set(self._plan.seeds) if self._plan is not None else self._asked_seeds()
        has_plan = launch.looks is None or _is_same(launch.looks, self._plan)
        if not self._asked or not has_plan or not seeds <= allowed:
            self._change(launch)
        self._asked |= asked

    def _change(self, launch: LaunchRecord) -> None:
        """Add the looks at the results that there were when the seeds or the plan changed."""
        seen = self._seeds_ended_before(datetime.fromisoformat(launch.at))
        if len(seen) >= MIN_SEEDS:
            self._is_planned = False
            if self._plan is not None:
                for number in range(1, len(self._plan.looks) + 1):
                    planned = self._plan.seeds_at(number)
                    if seen.issuperset(planned):
                        self._add_set(planned)
            self._add_set(seen)
        self._plan = launch.looks

    def _asked_seeds(self) -> set[int]:
        return {self._runs[run_id].seed for run_id in self._asked}

    def _seeds_ended_before(self, time: datetime) -> set[int]:
        """Return the seeds whose runs had all ended at a time."""
        seeds = self._asked_seeds()
        for run_id in self._asked:
            run = self._runs[run_id]
            ended = run.ended_at if run.status in ENDED else None
            if ended is None or datetime.fromisoformat(ended) > time:
                seeds.discard(run.seed)
        return seeds

    def _add_set(self, seeds: Iterable[int]) -> None:
        """Add a look, unless its seeds have been looked at."""
        before = self._sets[-1] if self._sets else []
        new = [seed for seed in seeds if seed not in before]
        if new:
            self._sets.append([*before, *new])

    def looks(self) -> Looks | None:
        """Return all looks, with those of the present plan or of all seeds at the end."""
        if not self._runs:
            return None
        plan = self._plan
        if plan is None:
            self._add_set(sorted({run.seed for run in self._runs.values()}))
        else:
            for number in range(1, len(plan.looks) + 1):
                self._add_set(plan.seeds_at(number))
        is_planned = self._is_planned or len(self._sets) == 1
        open_ended = plan is not None and plan.open_ended
        has_end = is_planned and not open_ended
        found = zip(self._sets, levels(len(self._sets), has_end), strict=True)
        looks = [Look(seeds=seeds, level=level) for seeds, level in found]
        if plan is None:
            return Looks(planned=is_planned, looks=looks)
        return Looks(
            planned=is_planned, open_ended=open_ended, looks=looks, questions=plan.questions
        )


def _is_same(plan: LookPlan, other: LookPlan | None) -> bool:
    """Return whether two plans have the same looks; their questions may differ."""
    if other is None:
        return False
    return (plan.seeds, plan.looks, plan.open_ended) == (other.seeds, other.looks, other.open_ended)
