"""`status`: show the state of the runs."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import DEFAULT_RESULTS, ResultsOption
from harness.cli.studies import no_results, study_name

if TYPE_CHECKING:
    from harness.launch.slurm.queue import Place
    from harness.provenance.outdated import CodeChange
    from harness.results.store import Outcome, Run, Store

OptionalStudy = Annotated[
    str | None,
    typer.Argument(metavar="[STUDY]", help="A study file, or the name of a study; default: all."),
]


def status(study: OptionalStudy = None, results: ResultsOption = DEFAULT_RESULTS) -> None:
    """Show which runs are done, running, failed and pending, and why."""
    from harness.provenance.corpora import changed_corpora
    from harness.provenance.outdated import find_changes
    from harness.provenance.sources import Sources
    from harness.results.store import Store

    store = Store(results)
    names = [study_name(study)] if study else store.studies()
    if not any(store.runs(name) for name in names):
        raise no_results(results, study, store.studies())
    for name in names:
        runs = [(run, run.outcome) for run in store.runs(name)]
        specs = store.specs(name)
        changes = find_changes(store, name, specs, Sources())
        counts = Counter(
            "outdated" if _is_outdated(changes.get(run.run_id)) else outcome.status
            for run, outcome in runs
        )
        summary = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
        imported = " (imported)" if store.is_imported(name) else ""
        print(f"{name}{imported}: {len(runs)} runs: {summary}")
        n_unknown = [spec.code_hash for spec in specs].count(None)
        if n_unknown:
            print(f"  without a record of their code: {n_unknown}")
        for corpus, n in changed_corpora(store, name).items():
            print(f"  the corpus {corpus} has changed since {n} of these runs")
        for line in _tuning(store, name, {run.run_id: outcome for run, outcome in runs}):
            print(f"  {line}")
        for line in _looks(store, name):
            print(f"  {line}")
        jobs = _jobs(store, name, {run.run_id for run, outcome in runs if outcome.status != "done"})
        for line in jobs.lines:
            print(f"  {line}")
        for run, outcome in runs:
            change = changes.get(run.run_id)
            if outcome.status not in ("done", "pending") or change is not None:
                print(f"  {_describe(run, outcome, change)}{jobs.of(run.run_id)}")
    if study is not None:
        folder = "" if results == DEFAULT_RESULTS else f" --results {results}"
        print(f"report: python -m harness report {study}{folder}")


def _tuning(store: "Store", study: str, outcomes: "Mapping[str, Outcome]") -> Iterator[str]:
    """Yield how far the tuning of a study is, if it tunes."""
    from harness.errors import StoreError

    try:
        record = store.tuning(study)
    except StoreError as error:
        yield str(error)
        return
    if record is None:
        return
    run_ids = [run_id for tuned in record.entries for run_id in tuned.trials]
    ended = [run_id for run_id in run_ids if _has_ended(outcomes.get(run_id))]
    chosen = [tuned for tuned in record.entries if tuned.chosen is not None]
    yield (
        f"tuning: {len(ended)} of {len(run_ids)} trials have ended, settings are chosen for "
        f"{len(chosen)} of {len(record.entries)} entries"
    )


def _looks(store: "Store", study: str) -> Iterator[str]:
    """Yield the look that a study with planned looks is at."""
    from harness.errors import StoreError

    try:
        launches = store.launches(study)
    except StoreError as error:
        yield str(error)
        return
    newest = launches[-1] if launches else None
    if newest is not None and newest.looks is not None and newest.look is not None:
        counts = ", ".join(map(str, newest.looks.looks))
        yield f"looks at {counts} seeds: the newest launch is for look {newest.look}"


@dataclass(frozen=True)
class _Jobs:
    """What Slurm says about the runs of a study: lines about all, and the element of each run."""

    lines: list[str] = field(default_factory=list)
    places: "dict[str, Place]" = field(default_factory=dict)

    def of(self, run_id: str) -> str:
        """Return where a run is in the queue; empty without an element in the queue."""
        place = self.places.get(run_id)
        if place is None or place.entry is None or not place.is_queued:
            return ""
        entry = place.entry
        where = f"on {entry.nodes}" if entry.has_started else f"pending: {entry.reason or 'queued'}"
        return f", job {entry.job} {where}"


def _jobs(store: "Store", study: str, run_ids: set[str]) -> _Jobs:
    """Ask Slurm about the runs that are not done, if some were submitted: one call of squeue."""
    from harness.errors import StoreError
    from harness.launch.slurm.commands import CommandError
    from harness.launch.slurm.queue import Queue, describe_queue, submissions_of

    try:
        submissions = submissions_of(store, study, run_ids)
    except StoreError as error:
        return _Jobs([str(error)])
    if not submissions:
        return _Jobs()
    queue = Queue(submissions)
    try:
        queue.ask()
    except CommandError as error:
        return _Jobs([f"the queue cannot be asked ({error})"])
    return _Jobs([f"queue: {describe_queue(queue.entries)}"], queue.places())


def _has_ended(outcome: "Outcome | None") -> bool:
    from harness.results.records import ENDED

    return outcome is not None and outcome.status in ENDED


def _is_outdated(change: "CodeChange | None") -> bool:
    return change is not None and not change.is_accepted


def _describe(run: "Run", outcome: "Outcome", change: "CodeChange | None") -> str:
    last = run.last_step()
    step = f" at step {last.step + 1}" if last and outcome.status != "done" else ""
    reason = f" ({outcome.reason}: {outcome.message})" if outcome.reason else ""
    text = f"{run.run_id}: {outcome.status}{step}{reason}"
    if change is None:
        return text
    return f"{text}, {'accepted although' if change.is_accepted else 'outdated:'} {change}"
