"""`status`: show the state of the runs."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import DEFAULT_RESULTS, ResultsOption
from harness.cli.output import show
from harness.cli.studies import no_results, study_name
from harness.printable import one_line

if TYPE_CHECKING:
    from harness.launch.slurm.queue import Element
    from harness.provenance.outdated import CodeChange
    from harness.results.records import RunSpec, RunStatus
    from harness.results.run import Outcome, Run
    from harness.results.store import Store

OptionalStudy = Annotated[
    str | None,
    typer.Argument(metavar="[STUDY]", help="A study file, or the name of a study; default: all."),
]


def status(study: OptionalStudy = None, results: ResultsOption = DEFAULT_RESULTS) -> None:
    """Show which runs are done, running, failed and pending, and why."""
    from harness.results.store import Store

    store = Store(results)
    names = [study_name(study)] if study else store.studies()
    runs = {name: store.runs(name) for name in names}
    if not any(runs.values()):
        raise no_results(results, study, store.studies())
    for name in names:
        _show(store, name, runs[name])
    if study is not None:
        folder = "" if results == DEFAULT_RESULTS else f" --results {results}"
        show(f"report: python -m harness report {study}{folder}")


def _show(store: "Store", study: str, runs: "list[Run]") -> None:
    """Print the state of a study and of its runs. The files of each run are read once."""
    from harness.errors import StoreError
    from harness.provenance.corpora import changed_corpora
    from harness.provenance.outdated import ComputedBy, changes_since
    from harness.provenance.sources import Sources
    from harness.results.run import Outcome

    outcomes: dict[str, Outcome] = {}
    readable: list[tuple[RunSpec, RunStatus]] = []
    for run in runs:
        try:
            status = run.status
            outcomes[run.run_id] = Outcome(status.status, status.reason, status.message)
            readable.append((run.spec, status))
        except StoreError as error:
            if not run.is_imported:  # such a run has no spec
                outcomes.pop(run.run_id, None)
            outcomes.setdefault(run.run_id, Outcome("unreadable", "error", str(error)))
    specs = [spec for spec, _ in readable]
    computed_by = {spec.run_id: ComputedBy.of(spec, status) for spec, status in readable}
    changes = changes_since(store.archive(study), specs, computed_by, Sources())
    counts = Counter(
        "outdated" if _is_outdated(changes.get(run_id)) else outcome.status
        for run_id, outcome in outcomes.items()
    )
    summary = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
    imported = " (imported)" if any(run.is_imported for run in runs) else ""
    show(f"{study}{imported}: {len(runs)} runs: {summary}")
    n_unknown = [spec.code_hash for spec in specs].count(None)
    if n_unknown:
        show(f"  without a record of their code: {n_unknown}")
    for corpus, n in changed_corpora(readable).items():
        show(f"  the corpus {corpus} has changed since {n} of these runs")
    jobs = _jobs(store, study, {key for key, outcome in outcomes.items() if not _is_done(outcome)})
    for line in (*_tuning(store, study, outcomes), *_looks(store, study), *jobs.lines):
        show(f"  {line}")
    for run in runs:
        outcome = outcomes[run.run_id]
        change = changes.get(run.run_id)
        if outcome.status not in ("done", "pending") or change is not None:
            show(f"  {_describe(run, outcome, change)}{jobs.of(run.run_id)}")


def _is_done(outcome: "Outcome") -> bool:
    return outcome.status == "done"


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
    elements: "dict[str, Element]" = field(default_factory=dict)

    def of(self, run_id: str) -> str:
        """Return where a run is in the queue; empty without an element in the queue."""
        element = self.elements.get(run_id)
        if element is None or element.entry is None or not element.is_queued:
            return ""
        entry = element.entry
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
    return _Jobs([f"queue: {describe_queue(queue.entries)}"], queue.elements())


def _has_ended(outcome: "Outcome | None") -> bool:
    from harness.results.records import ENDED

    return outcome is not None and outcome.status in ENDED


def _is_outdated(change: "CodeChange | None") -> bool:
    return change is not None and not change.is_accepted


def _describe(run: "Run", outcome: "Outcome", change: "CodeChange | None") -> str:
    last = run.last_step()
    step = f" at step {last.step + 1}" if last and outcome.status != "done" else ""
    reason = f" ({outcome.reason}: {one_line(str(outcome.message))})" if outcome.reason else ""
    text = f"{run.run_id}: {outcome.status}{step}{reason}"
    if outcome.status == "running":
        silence_s = run.silence_s()
        if silence_s is not None:
            text += f", last sign of life {max(0.0, silence_s):.0f} s ago"
    if change is None:
        return text
    return f"{text}, {'accepted although' if change.is_accepted else 'outdated:'} {change}"
