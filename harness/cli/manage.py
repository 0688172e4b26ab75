"""`results list`, `results remove` and `results move`: manage the folder of the results."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import DEFAULT_RESULTS, ResultsOption, WhereOption
from harness.cli.output import example, log, show
from harness.cli.studies import no_results, study_name

StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="The name or file of a study.")]
MEBI = 2**20


def build_app() -> typer.Typer:
    """Return the commands that manage results."""
    app = typer.Typer(help="List, remove and move results.", no_args_is_help=True)
    app.command("list", epilog=example("results list"))(list_studies)
    app.command("remove", epilog=example("results remove ablations --status failed"))(remove)
    app.command("move", epilog=example("results move ablations first-try"))(move)
    return app


def list_studies(results: ResultsOption = DEFAULT_RESULTS) -> None:
    """List the studies with their runs by status, size and newest change."""
    from datetime import datetime

    from harness.results.manage import size_bytes
    from harness.results.store import Store

    store = Store(results)
    names = store.studies()
    if not names:
        raise no_results(results)
    for name in names:
        counts = Counter(run.outcome.status for run in store.runs(name))
        states = ", ".join(f"{n} {state}" for state, n in sorted(counts.items())) or "no runs"
        newest = datetime.fromtimestamp(store.last_change(name)).isoformat(" ", "minutes")
        size = size_bytes(store.root / name) / MEBI
        show(f"{name}: {states}; {size:,.1f} MiB; newest {newest}")


def remove(
    study: StudyName,
    results: ResultsOption = DEFAULT_RESULTS,
    where: WhereOption = None,
    status: Annotated[
        str | None, typer.Option("--status", metavar="STATUS", help="Only runs of this status.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without a question.")] = False,
) -> None:
    """Remove runs of a study, or the whole study, after a list of them and a question."""
    from harness.analysis.selection import matching_runs
    from harness.launch.slurm.queue import unqueued
    from harness.results import manage
    from harness.results.store import Store

    store = Store(results)
    name = study_name(study)
    runs = matching_runs(store, name, where or (), status)
    with unqueued(store, name, runs), manage.claimed(runs):  # refuses before it asks
        pass
    is_whole = not where and status is None
    folders = [store.root / name] if is_whole else [run.path for run in runs]
    for folder in folders:
        show(f"{folder}: {manage.size_bytes(folder) / MEBI:,.1f} MiB")
    n_runs = f"{len(runs):,} runs"
    what = f"the study {name} with {n_runs}" if is_whole else f"{n_runs} of {name}"
    if not yes and not typer.confirm(f"Remove {what}?", err=True):
        log("nothing removed")
        return
    with unqueued(store, name, runs):
        if is_whole:
            manage.remove_study(store, name)
        else:
            manage.remove_runs(runs)
    log(f"removed {what}")


def move(
    study: StudyName,
    new_name: Annotated[
        str | None, typer.Argument(metavar="[NEW_NAME]", help="The new name of the study.")
    ] = None,
    results: ResultsOption = DEFAULT_RESULTS,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Another folder of results.")
    ] = None,
) -> None:
    """Rename a study, or move it to another folder of results."""
    from harness.errors import UserError
    from harness.launch.slurm.queue import unqueued
    from harness.results import manage
    from harness.results.store import Store

    if (new_name is None) == (to is None):
        raise UserError("results move: needs either NEW_NAME or --to DIR")
    store = Store(results)
    name = study_name(study)
    is_continued = new_name is not None and manage.is_partly_renamed(store, name, new_name)
    runs = store.runs(name)
    if not runs and not is_continued:
        raise no_results(results, study, store.studies())
    with unqueued(store, name, runs):
        if new_name is not None:
            folder = manage.rename(store, name, new_name)
        elif to is not None:
            folder = manage.move_to(store, name, to)
    if new_name is not None:
        log(f"set study.name to {new_name} in the study file, so that `run` continues here")
    show(folder)
