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
from harness.cli.studies import load_checked_study
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
    trace: Annotated[
        bool, typer.Option("--trace", help="Store a Chrome trace of one step of each rank.")
    ] = False,
) -> None:
    """Train every run that is not done. After an interruption, the same command resumes."""
    started = time.monotonic()
    from harness.launch import elastic, scheduler
    from harness.launch.progress import time_summary
    from harness.results.store import Store

    if not dry_run:
        elastic.start_fork_server()
    planned = load_checked_study(study, settings, seeds, where)
    store = Store(results)
    selection = scheduler.select_runs(store, planned.runs, retry_failed)
    todo = scheduler.randomize_within_seed(selection.todo)
    n_runs = len(planned.runs)
    log(f"{planned.name}: {n_runs} runs, {len(selection.done)} done, {len(todo)} to do")
    if dry_run:
        print(*(spec.run_id for spec in todo), sep="\n")
        return
    for note in selection.notes():
        log(note)
    if trace:
        todo = [spec.traced() for spec in todo]
    scheduler.plan_runs(store, planned.name, todo, planned.all_run_ids)
    scheduler.record_allowed(store, selection.done)
    store.record_launch(planned.name, planned.launch_record(command_line(), todo))
    try:
        scheduler.run_all(store, [*todo, *selection.running], elastic.start, fail_fast)
    except elastic.STOP_EXCEPTIONS as error:
        log("stopped; the same command resumes")
        raise typer.Exit(ExitCode.INTERRUPTED) from error
    n_done = len(scheduler.select_runs(store, planned.runs).done)
    log(f"{n_done} of {n_runs} done")
    if todo:
        log(time_summary(store, todo, time.monotonic() - started))
    if n_done < n_runs:
        raise typer.Exit(ExitCode.SOME_FAILED)
