"""`run`: train the runs of a study that are not done."""

import shlex
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import (
    DEFAULT_RESULTS,
    ResultsOption,
    SeedsOption,
    SetOption,
    StudyFileArgument,
    WhereOption,
    load_study,
    log,
)
from harness.errors import ExitCode

if TYPE_CHECKING:
    from harness.config import PlannedStudy
    from harness.results.records import LaunchRecord, RunSpec


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
    planned = load_study(study, settings, seeds, where)
    store = Store(results)
    selection = scheduler.select_runs(store, planned.runs, retry_failed)
    todo = scheduler.randomize_within_seed(selection.todo)
    n_runs = len(planned.runs)
    log(f"{planned.name}: {n_runs} runs, {len(selection.done)} done, {len(todo)} to do")
    if dry_run:
        print(*(spec.run_id for spec in todo), sep="\n")
        return
    for spec in selection.running:
        log(f"{spec.run_id}: runs in another process; awaited at the end")
    if selection.failed:
        log(f"{len(selection.failed)} failed earlier and are skipped; --retry-failed retries them")
    if trace:
        todo = [spec.traced() for spec in todo]
    scheduler.plan_runs(store, planned.name, todo, planned.all_run_ids)
    store.record_launch(planned.name, _launch_record(planned, todo))
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


def _launch_record(planned: "PlannedStudy", todo: "list[RunSpec]") -> "LaunchRecord":
    from harness.results.records import LaunchRecord

    command = shlex.join(["python", "-m", "harness", *sys.argv[1:]])
    return LaunchRecord(
        command=command.encode(errors="replace").decode(),
        order=[spec.run_id for spec in todo],
        settings_hash=planned.settings_hash,
        note=planned.note,
        equivalence_margin=planned.equivalence_margin,
    )
