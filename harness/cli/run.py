"""`run`: train the runs of a study that are not done."""

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.isolation import isolate_study
from harness.cli.options import (
    DEFAULT_RESULTS,
    ResultsOption,
    SeedsOption,
    SetOption,
    StudyFileArgument,
    WhereOption,
)
from harness.cli.output import log, show
from harness.cli.studies import load_study
from harness.errors import ExitCode, Problem, UserError

if TYPE_CHECKING:
    from harness.cli.launching import Launch
    from harness.config import PlannedStudy
    from harness.results.store import Store

MAX_SEEDS = 10_000


class On(StrEnum):
    """Where `run` starts runs."""

    LOCAL = "local"
    SLURM = "slurm"


class Until(StrEnum):
    """When `run` stops to add seeds."""

    RESOLVED = "resolved"


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
    until: Annotated[
        Until | None,
        typer.Option("--until", help="Add seeds to the entries without a verdict, look by look."),
    ] = None,
    max_seeds: Annotated[
        int | None,
        typer.Option(
            "--max-seeds",
            metavar="N",
            min=2,
            max=MAX_SEEDS,
            help="With looks: the number of seeds at the last one.",
        ),
    ] = None,
    accept_outdated: Annotated[
        bool,
        typer.Option("--accept-outdated", help="Keep results of older code; the report says so."),
    ] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Store a Chrome trace of one step of each rank.")
    ] = False,
    on: Annotated[
        On | None,
        typer.Option("--on", help="Start runs on this machine or by Slurm; default: launch.on."),
    ] = None,
    no_wait: Annotated[
        bool,
        typer.Option("--no-wait", help="With Slurm: submit the runs that are due, do not follow."),
    ] = False,
    print_script: Annotated[
        bool,
        typer.Option("--print-script", help="With Slurm and --dry-run: print the jobs."),
    ] = False,
) -> None:
    """Train every run that is not done. After an interruption, the same command resumes.

    With Slurm, Ctrl-C leaves the jobs in the queue; the same command follows them again.
    """
    if on is not None:
        settings = [*(settings or ()), f"launch.on={on}"]
    isolate_study(study, settings)
    if not dry_run and _is_local(study, settings or ()):
        from harness.launch import fork_server

        fork_server.start_fork_server()  # loads torch while this process does as well

    from harness.cli.launching import Launch
    from harness.config import UntilResolved
    from harness.launch import machine
    from harness.preflight import check_study
    from harness.results.store import Store

    until_resolved = None
    if until is not None or max_seeds is not None:
        until_resolved = UntilResolved(max_seeds, requested=until is not None)
    planned = load_study(study, settings, seeds, where, until_resolved)
    is_local = planned.launch.on == "local"
    _check_options(is_local, dry_run, no_wait, print_script)
    store = Store(results)
    store.refuse_imported(
        planned.name, "choose another study.name in the study file, or another --results folder"
    )
    if only is not None:
        planned = planned.only(only)
    if not dry_run:
        _check_trackers(planned.trackers, str(study))
    if is_local:
        _check_machine(planned)
    planned = check_study(planned, str(study), log)  # all models, before the first stage
    launch = Launch(
        study=study,
        settings=settings or (),
        seeds=seeds,
        where=where or (),
        retry_failed=retry_failed,
        fail_fast=fail_fast,
        accept_outdated=accept_outdated,
        trace=trace,
    )
    if is_local:
        launch = replace(launch, order=partial(machine.order, parallel=planned.launch.parallel))
    if dry_run:
        _print_due(planned, store, launch, print_script)
    elif not _train(planned, store, launch, no_wait):
        raise typer.Exit(ExitCode.SOME_FAILED)


def _train(planned: "PlannedStudy", store: "Store", launch: "Launch", no_wait: bool) -> bool:
    """Train the runs that are due, stage by stage; return whether the study is done."""
    from harness.cli import first_screen
    from harness.cli.stages import checked_stages, record_tuning, unfinished
    from harness.launch import agent
    from harness.launch.backend import Backend
    from harness.launch.local import LocalBackend
    from harness.launch.slurm.backend import SlurmBackend
    from harness.launch.slurm.submit import submit
    from harness.launch.trackers import Trackers

    record_tuning(planned, store)
    is_done = True
    run_ids: set[str] = set()
    with Trackers(planned.trackers, store, planned.name, log) as trackers:
        local = LocalBackend(agent.start, planned.launch.parallel, trackers.followed)
        backend: Backend = local
        if planned.launch.on == "slurm":
            submit_runs = partial(submit, settings=planned.launch.job_settings(), log=log)
            backend = SlurmBackend(submit_runs, log, trackers.name_run, waits=not no_wait)
        for stage in checked_stages(planned, store, launch.study, log):
            run_ids.update(spec.run_id for spec in stage.runs)
            is_done = launch.start(stage, store, backend) and is_done
            if backend is local and planned.launch.timed == "exclusive":
                launch.time_runs(stage, store, local, planned.launch.timing_steps)
            record_tuning(planned, store)
            if launch.fail_fast and not is_done:
                break
    missing = unfinished(planned, store)
    log(*missing)
    unreadable = first_screen.show(store, planned.name, launch.study)
    damaged = {run_id: why for run_id, why in unreadable.items() if run_id in run_ids}
    log(*(f"{run_id}: its results cannot be read: {why}" for run_id, why in damaged.items()))
    return is_done and not missing and not damaged


def _print_due(planned: "PlannedStudy", store: "Store", launch: "Launch", scripts: bool) -> None:
    """Print the ids of the runs that are due, or the `scripts` of their jobs."""
    from harness.cli.stages import checked_stages, unfinished
    from harness.launch.slurm.submit import describe

    for stage in checked_stages(planned, store, launch.study, log):
        _, todo, _ = launch.select(stage, store)
        if scripts:
            show(describe(store, planned.name, todo, planned.launch.job_settings()))
            continue
        for spec in todo:
            show(spec.run_id)
    missing = unfinished(planned, store)
    if missing:
        log("the tuned runs follow when their settings are chosen:", *missing)


def _check_machine(planned: "PlannedStudy") -> None:
    """Check that this machine can train all runs, of later stages too; warn of a slow precision.

    Raises:
        UserError: it lacks devices, memory or open files; names each setting.
    """
    from harness.launch import machine
    from harness.launch.slow_precision import cpu_features, slow_precision

    possible = planned.runs if planned.tuning is None else planned.tuning.possible_runs()
    problems = machine.check_machine(possible, planned.launch.parallel)
    problems += machine.check_memory(possible)
    if problems:
        raise UserError(problems)
    if warning := slow_precision(possible, cpu_features()):
        log(warning)


def _is_local(study: Path, settings: Sequence[str]) -> bool:
    """Return whether the runs start on this machine; False if the study file is invalid."""
    from harness.study import study_file

    try:
        file, _ = study_file.read(study, settings)
    except UserError:  # reading the whole study reports it
        return False
    return file.launch.on == "local"


def _check_options(is_local: bool, dry_run: bool, no_wait: bool, print_script: bool) -> None:
    """Check options that need Slurm.

    Raises:
        UserError: an option has no effect here.
    """
    if is_local and (no_wait or print_script):
        option = "--no-wait" if no_wait else "--print-script"
        raise UserError(f'{option}: needs --on slurm, or [launch] on = "slurm" in the study')
    if print_script and not dry_run:
        raise UserError("--print-script: needs --dry-run")


def _check_trackers(names: Sequence[str], study: str) -> None:
    """Check that the packages of the trackers are installed.

    Raises:
        UserError: one is missing.
    """
    if not names:
        return
    from harness.export import missing_packages

    problems = []
    for name in names:
        problem = missing_packages(name)
        if problem is not None:
            problems.append(Problem(f"{study}: log.to", f"{name} {problem}"))
    if problems:
        raise UserError(problems)
