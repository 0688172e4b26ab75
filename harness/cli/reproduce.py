"""`reproduce`: write a folder from which recorded runs can be trained again."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.output import log, show
from harness.cli.studies import no_results


def reproduce(
    results: Annotated[Path, typer.Argument(metavar="RESULTS/STUDY", help="Results of a study.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN_ID", help="Only this run.")
    ] = None,
) -> None:
    """Write the recorded study, variants, packages and the command that trains runs again."""
    from harness.provenance.reproduce import SCRIPT, find_reproduction
    from harness.results.store import Store

    store = Store(results.parent)
    if not store.runs(results.name):
        raise no_results(results.parent, results.name, store.studies())
    store.refuse_imported(
        results.name, "they cannot be trained again here, only imported again from their table"
    )
    reproduction = find_reproduction(store, results.name, run)
    reproduction.write(folder)
    for line in reproduction.differences():
        log(line)
    show(f"sh {folder / SCRIPT}")
