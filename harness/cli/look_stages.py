"""The stages of a study that adds seeds where they are needed: one for each look."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from harness.analysis.axis_levels import is_context
from harness.config import PlannedStudy
from harness.launch.progress import duration
from harness.results.records import ENDED, LookPlan, RunSpec
from harness.results.store import Store

REASONS = {
    "settled": "settled",
    "futile": "stopped, as no verdict is likely at the last look",
    "lost seeds": "stopped, as a run failed",
    "unresolved": "unresolved at the last look",
}


@dataclass(frozen=True)
class LookProgress:
    """The state of a study after a look.

    `decisions` has whether each entry that is compared needs more seeds. `mean_run_s` is None if no
    run recorded its time.
    """

    is_planned: bool
    decisions: Mapping[str, str]
    mean_run_s: float | None

    @property
    def going(self) -> set[str]:
        """The entries that need more seeds."""
        return {entry for entry, decision in self.decisions.items() if decision == "continues"}


def read_progress(store: Store, stage: PlannedStudy) -> LookProgress | None:
    """Return the state of a study by its stored results, None without any.

    The plan of the stage counts as launched, which it is not in a dry run.
    """
    from harness.analysis import dataset, equivalence, hypotheses, stopping

    if not store.runs(stage.name):
        return None
    results = dataset.read(store, stage.name)
    launches = (*results.launches, stage.launch_record(command="", order=[]))
    results = replace(results, launches=launches)
    if results.looks is None:
        return None
    diverging = equivalence.diverging(equivalence.check(results))
    tests = hypotheses.test_hypotheses(results, diverging)
    times = [run.total_s for entry in results.entries for run in entry.done]
    totals = [time for time in times if time is not None]
    return LookProgress(
        is_planned=results.looks.planned,
        decisions=stopping.decide(results, tests, results.looks),
        mean_run_s=sum(totals) / len(totals) if totals else None,
    )


def look_stages(
    planned: PlannedStudy, store: Store, log: Callable[[str], None]
) -> Iterator[PlannedStudy]:
    """Yield the stage of each look: the runs of the entries that the looks before have not settled.

    Each is planned from the results of those before. The baseline runs every seed. No look follows
    one whose runs have not all ended, as after an interruption.
    """
    plan = planned.looks
    assert plan is not None
    log(describe(planned))
    going: Collection[str] | None = None
    for number in range(1, len(plan.looks) + 1):
        stage = planned.stage(_runs_at(planned, plan.seeds_at(number), going), look=number)
        yield stage
        progress = read_progress(store, stage)
        if progress is None or not _is_complete(planned, store, number, going):
            log(f"look {number} of {len(plan.looks)} follows when its runs have ended")
            return
        if number == 1 and not progress.is_planned:
            log(
                "results were there before these looks were planned, and they are a look, too: the "
                "level of look k is 0.05/(k(k+1))"
            )
        selected = {spec.entry for spec in planned.runs}
        going = progress.going & selected
        log(_progress_line(planned, number, progress, going))
        if not going:
            return


def describe(planned: PlannedStudy) -> str:
    """Return the plan of the looks: numbers of seeds, levels, and the numbers of runs."""
    from harness.analysis.looks import levels

    plan = planned.looks
    assert plan is not None
    shown = levels(len(plan.looks), has_end=not plan.open_ended)
    level = f"level {shown[0]:.4g} each"
    if plan.open_ended:
        level = f"levels {', '.join(f'{value:.2g}' for value in shown)}, as no end is stated"
    counts = ", ".join(map(str, plan.looks))
    first = len(_runs_at(planned, plan.seeds_at(1), None))
    return (
        f"{planned.name}: looks at {counts} seeds, {level}; "
        f"at least {first} runs, at most {len(planned.runs)}"
    )


def _is_complete(
    planned: PlannedStudy, store: Store, number: int, going: Collection[str] | None
) -> bool:
    """Return whether all runs of a look have ended."""
    assert planned.looks is not None
    for spec in _runs_at(planned, planned.looks.seeds_at(number), going):
        run = store.run(spec.study, spec.run_id)
        if not run.exists or run.outcome.status not in ENDED:
            return False
    return True


def _runs_at(
    planned: PlannedStudy, seeds: Collection[int], going: Collection[str] | None
) -> list[RunSpec]:
    """Return the runs of a look: those of some entries (None: all), and all that they need.

    These are the runs of the baselines that they are compared with, and those they start from.
    """
    runs = [spec for spec in planned.runs if spec.seed in seeds]
    if going is not None:
        contexts = {_context(planned, spec) for spec in runs if spec.entry in going}
        sources = _sources(runs)
        runs = [
            spec
            for spec in runs
            if spec.entry in going
            or spec.run_id in sources
            or (_is_baseline(planned, spec) and _context(planned, spec) in contexts)
        ]
        needed = _sources(runs)
        runs = [spec for spec in runs if spec.run_id not in sources or spec.run_id in needed]
    return runs


def _sources(runs: Collection[RunSpec]) -> set[str | None]:
    return {spec.source_id for spec in runs}


def _is_baseline(planned: PlannedStudy, spec: RunSpec) -> bool:
    for axis, label in spec.baseline.items():
        if not is_context(axis, planned.compare) and spec.labels.get(axis) != label:
            return False
    return True


def _context(planned: PlannedStudy, spec: RunSpec) -> frozenset[tuple[str, str]]:
    labels = spec.labels.items()
    return frozenset((axis, label) for axis, label in labels if is_context(axis, planned.compare))


def _progress_line(
    planned: PlannedStudy, number: int, progress: LookProgress, going: Collection[str]
) -> str:
    plan = planned.looks
    assert plan is not None
    counts = Counter(progress.decisions.values())
    parts = [f"{counts[name]} {text}" for name, text in REASONS.items() if counts[name]]
    states = ", ".join(parts) or "none settled"
    n_entries = len(progress.decisions)
    entries = "1 entry" if n_entries == 1 else f"{n_entries} entries"
    text = f"look {number} of {len(plan.looks)}: of {entries} {states}"
    if number == len(plan.looks):
        return text
    if not going:
        return f"{text}; no entry needs more seeds"
    n_left = _n_runs_left(planned, plan, number, going)
    time_left = ""
    if progress.mean_run_s is not None:
        time_left = f", about {duration(n_left * progress.mean_run_s)}"
    return f"{text}, {len(going)} continue; at most {n_left} runs left{time_left}"


def _n_runs_left(planned: PlannedStudy, plan: LookPlan, number: int, going: Collection[str]) -> int:
    seeds = plan.seeds[plan.looks[number - 1] :]
    return len(_runs_at(planned, seeds, going))
