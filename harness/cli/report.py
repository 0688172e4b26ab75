"""`report`: write tables and figures of the results."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import DEFAULT_RESULTS, OutOption, ResultsOption
from harness.cli.output import log
from harness.cli.studies import no_results, study_name
from harness.errors import ExitCode

Studies = Annotated[
    list[str] | None,
    typer.Argument(metavar="[STUDY]...", help="Study files or names; default: all with results."),
]
WatchOption = Annotated[
    bool, typer.Option("--watch", help="Update the report until no run is pending or running.")
]
IntervalOption = Annotated[
    int,
    typer.Option(
        "--interval", min=1, max=86_400, metavar="SECONDS", help="With --watch: check so often."
    ),
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
    from harness.report.watch import update_until_done
    from harness.results.store import Store

    store = Store(results)
    names = [study_name(text) for text in studies or ()] or store.studies()
    if not names:
        raise no_results(results)
    if watch:
        try:
            update_until_done(store, names, out, interval, log)
        except KeyboardInterrupt as error:
            raise typer.Exit(ExitCode.INTERRUPTED) from error
        print(*(out / name / "report.md" for name in names), sep="\n")
        return
    for name in names:
        print(write(store, name, out) / "report.md")
