"""`report`: write tables and figures of the results."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import (
    DEFAULT_RESULTS,
    OutOption,
    ResultsOption,
    log,
    no_results,
    study_name,
)
from harness.cli.status import status_of
from harness.errors import ExitCode

if TYPE_CHECKING:
    from harness.results.store import Store

OPEN = ("pending", "running")

Studies = Annotated[
    list[str] | None,
    typer.Argument(metavar="[STUDY]...", help="Study files or names; default: all with results."),
]
WatchOption = Annotated[
    bool, typer.Option("--watch", help="Update the report until no run is pending or running.")
]
IntervalOption = Annotated[
    int, typer.Option("--interval", min=1, metavar="SECONDS", help="With --watch: check so often.")
]


def report(
    studies: Studies = None,
    results: ResultsOption = DEFAULT_RESULTS,
    out: OutOption = Path("reports"),
    watch: WatchOption = False,
    interval: IntervalOption = 10,
) -> None:
    """Write the report of each study, and print its path."""
    from harness.report import write
    from harness.results.store import Store

    store = Store(results)
    names = [study_name(text) for text in studies or ()] or store.studies()
    if not names:
        raise no_results(results)
    if watch:
        try:
            _watch(store, names, out, interval)
        except KeyboardInterrupt as error:
            raise typer.Exit(ExitCode.INTERRUPTED) from error
        print(*(out / name / "report.md" for name in names), sep="\n")
        return
    for name in names:
        print(write(store, name, out) / "report.md")


def _watch(store: "Store", names: Sequence[str], out: Path, interval_s: int) -> None:
    """Write each report again when a file of its study changes, while any run is open."""
    from harness.report import write

    last_changes: dict[str, float] = {}
    while True:
        started = time.monotonic()
        n_open = 0
        for name in names:
            changed = store.last_change(name)
            states = [status_of(run).status for run in store.runs(name)]
            n_left = sum(state in OPEN for state in states)
            n_open += n_left
            if last_changes.get(name) != changed:
                last_changes[name] = changed
                folder = write(store, name, out, interval_s if n_left else None)
                done = f"{states.count('done')} of {len(states)} runs done"
                log(f"{time.strftime('%H:%M:%S')} {name}: {done}: {folder / 'index.html'}")
        if not n_open:
            return
        time.sleep(max(interval_s, time.monotonic() - started))
