"""`status`: show the state of the runs."""

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import DEFAULT_RESULTS, ResultsOption, no_results, study_name
from harness.errors import StoreError

if TYPE_CHECKING:
    from harness.results.store import Json, Run

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
        raise no_results(results, study)
    for name in names:
        runs = [(run, status_of(run)) for run in store.runs(name)]
        counts = Counter(status["status"] for _, status in runs)
        summary = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
        print(f"{name}: {len(runs)} runs: {summary}")
        for run, state in runs:
            if state["status"] not in ("done", "pending"):
                print(f"  {_describe(run, state)}")


def status_of(run: "Run") -> "Json":
    """Return the status of a run, also of one whose files cannot be read."""
    try:
        return run.status
    except StoreError as error:
        return {"status": "unreadable", "reason": "error", "message": str(error)}


def _describe(run: "Run", state: "Json") -> str:
    last = run.last_step()
    step = f" at step {last['step'] + 1}" if last else ""
    reason = f" ({state['reason']}: {state['message']})" if state["reason"] else ""
    return f"{run.run_id}: {state['status']}{step}{reason}"
