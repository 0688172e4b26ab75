"""`status`: show the state of the runs."""

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import DEFAULT_RESULTS, ResultsOption
from harness.cli.studies import no_results, study_name

if TYPE_CHECKING:
    from harness.results.store import Outcome, Run

OptionalStudy = Annotated[
    str | None,
    typer.Argument(metavar="[STUDY]", help="A study file, or the name of a study; default: all."),
]


def status(study: OptionalStudy = None, results: ResultsOption = DEFAULT_RESULTS) -> None:
    """Show which runs are done, running, failed and pending, and why."""
    from harness.results.store import Store

    store = Store(results)
    names = [study_name(study)] if study else store.studies()
    if not any(store.runs(name) for name in names):
        raise no_results(results, study, store.studies())
    for name in names:
        runs = [(run, run.outcome) for run in store.runs(name)]
        counts = Counter(outcome.status for _, outcome in runs)
        summary = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
        print(f"{name}: {len(runs)} runs: {summary}")
        for run, outcome in runs:
            if outcome.status not in ("done", "pending"):
                print(f"  {_describe(run, outcome)}")


def _describe(run: "Run", outcome: "Outcome") -> str:
    last = run.last_step()
    step = f" at step {last.step + 1}" if last else ""
    reason = f" ({outcome.reason}: {outcome.message})" if outcome.reason else ""
    return f"{run.run_id}: {outcome.status}{step}{reason}"
