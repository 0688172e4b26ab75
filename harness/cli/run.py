"""`run`: train the runs of a study that are not done."""

import time
from typing import Annotated

import typer

from harness.cli.options import (
    DEFAULT_RESULTS,
    ResultsOption,
    SeedsOption,
    SetOption,
    StudyFileArgument,
    WhereOption,
)
from harness.cli.output import command_line, log
from harness.cli.studies import load_study
from harness.errors import ExitCode


def run(
    study: StudyFileArgument,
    settings: SetOption = None,
    seeds: SeedsOption = None,
    where: WhereOption = None,
    results: ResultsOption = DEFAULT_RESULTS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the ids of the runs to do; start nothing.")
    ] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first run that fails.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run the failed runs again, and only those.")
    ] = False,
    only: Annotated[
        str | None, typer.Option("--run", metavar="RUN_ID", help="Train only this run.")
    ] = None,
    accept_outdated: Annotated[
        bool,
        typer.Option("--accept-outdated", help="Keep results of older code; the report says so."),
    ] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Store a Chrome trace of one step of each rank.")
    ] = False,
) -> None:
    """Train every run that is not done. After an interruption, the same command resumes."""
    started = time.monotonic()
    from harness.launch import elastic, scheduler
    from harness.launch.progress import time_summary
    from harness.preflight import check_study
    from harness.provenance.archive import archive_code, archive_inputs
    from harness.provenance.corpora import replaced_corpora
    from harness.provenance.outdated import acceptable, find_changes
    from harness.results.store import Store

    if not dry_run:
        elastic.start_fork_server()
    planned = load_study(study, settings, seeds, where)
    if only is not None:
        planned = planned.only(only)
    planned = check_study(planned, str(study), log)
    store = Store(results)
    changes = find_changes(store, planned.name, planned.runs, planned.sources)
    accepted = acceptable(store, planned.name, changes) if accept_outdated else {}
    selection = scheduler.select_runs(store, planned.runs, changes | accepted, retry_failed)
    todo = scheduler.randomize_within_seed(selection.todo)
    n_runs = len(planned.runs)
    log(f"{planned.name}: {n_runs} runs, {len(selection.done)} done, {len(todo)} to do")
    for note in (*replaced_corpora(store, planned.name, planned.runs), *selection.notes()):
        log(note)
    if accepted:
        log(f"{len(accepted)} outdated runs are kept as results; the report marks them")
    if dry_run:
        print(*(spec.run_id for spec in todo), sep="\n")
        return
    if trace:
        todo = [spec.traced() for spec in todo]
    scheduler.plan_runs(store, planned.name, todo, planned.all_run_ids)
    scheduler.record_allowed(store, selection.done)
    for spec in planned.runs:
        if spec.run_id in accepted:
            store.run(spec.study, spec.run_id).accept(spec)
    archive = store.archive(planned.name)
    archive_code(archive, planned.codes())
    inputs = archive_inputs(archive, study, settings or (), seeds, where or ())
    launch = planned.launch_record(command_line(), todo, inputs, list(accepted))
    store.record_launch(planned.name, launch)
    try:
        scheduler.run_all(store, [*todo, *selection.running], elastic.start, fail_fast)
    except elastic.STOP_EXCEPTIONS as error:
        log("stopped; the same command resumes")
        raise typer.Exit(ExitCode.INTERRUPTED) from error
    changes = find_changes(store, planned.name, planned.runs, planned.sources)
    n_done = len(scheduler.select_runs(store, planned.runs, changes).done)
    log(f"{n_done} of {n_runs} done")
    if todo:
        log(time_summary(store, todo, time.monotonic() - started))
    if n_done < n_runs:
        raise typer.Exit(ExitCode.SOME_FAILED)
