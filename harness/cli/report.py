"""`report`: write tables and figures of the results."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import DEFAULT_RESULTS, OutOption, ResultsOption, WhereOption
from harness.cli.output import log, show
from harness.cli.studies import no_results, study_file, study_name
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


BaselineOption = Annotated[
    list[str] | None,
    typer.Option(
        "--baseline",
        metavar="AXIS=NAME",
        help="Compare with another baseline: AXIS=NAME or AXIS=NAME,AXIS=NAME; repeatable.",
    ),
]
SettingsOption = Annotated[
    str | None,
    typer.Option(
        "--settings",
        metavar="HASH",
        help="Of runs with several settings, report those of this hash, which the report lists.",
    ),
]


def report(
    studies: Studies = None,
    results: ResultsOption = DEFAULT_RESULTS,
    out: OutOption = Path("reports"),
    where: WhereOption = None,
    baseline: BaselineOption = None,
    settings: SettingsOption = None,
    watch: WatchOption = False,
    interval: IntervalOption = 10,
) -> None:
    """Write the report of each study, and print its path.

    Given a study file, the report follows it: entries, labels, baseline, margins and looks are
    those that it states now. Given a name, they are those of the newest launch.
    """
    from harness.analysis.selection import Selection
    from harness.report.watch import ReportRequest, update_until_done
    from harness.results.store import Store

    store = Store(results)
    selection = Selection(tuple(where or ()), tuple(baseline or ()), settings)
    names = list(studies or ()) or store.studies()
    if not names and not watch:
        raise no_results(results)
    requests = [ReportRequest(study_name(name), study_file(name), selection) for name in names]
    if watch:
        try:
            folders = update_until_done(store, requests, out, interval, log)
        except KeyboardInterrupt as error:
            raise typer.Exit(ExitCode.INTERRUPTED) from error
        show(*(folder / "report.md" for folder in folders))
        return
    for request in requests:
        show(request.write(store, out) / "report.md")
