"""`cancel`: remove a study's elements from Slurm's queue."""

from harness.cli.options import DEFAULT_RESULTS, ResultsOption, StudyArgument, WhereOption
from harness.cli.output import log
from harness.cli.studies import no_results, study_name
from harness.errors import UserError


def cancel(
    study: StudyArgument, where: WhereOption = None, results: ResultsOption = DEFAULT_RESULTS
) -> None:
    """Cancel the jobs of a study, or those whose remaining runs all match --where.

    A run that trains saves a checkpoint and ends; `run` resumes it.
    """
    from harness.analysis.selection import matching_runs
    from harness.launch.slurm import commands
    from harness.launch.slurm.queue import Queue, find_elements
    from harness.results.records import ENDED
    from harness.results.store import Store

    store = Store(results)
    name = study_name(study)
    if not store.runs(name):
        raise no_results(results, study, store.studies())
    matching = {run.run_id for run in matching_runs(store, name, where or ())}
    queue = Queue(store.submissions(name))
    try:
        queue.ask()
    except commands.CommandError as error:
        raise UserError(f"the queue cannot be asked ({error}); nothing is cancelled") from error
    jobs: set[str] = set()
    kept: set[str] = set()
    n_started = 0
    for element in find_elements(queue.submissions, queue.entries):
        entry = element.entry
        if entry is None or not entry.is_queued or entry.state == "COMPLETING":
            continue
        remaining = set()
        for run_id in element.run_ids:
            if store.run(name, run_id).outcome.status not in ENDED:
                remaining.add(run_id)
        if remaining <= matching:
            jobs.add(entry.job)
            n_started += entry.has_started
        else:
            kept.add(entry.job)
    try:
        commands.scancel(sorted(jobs))
    except commands.CommandError as error:
        raise UserError(f"{error}; some elements may still be in the queue") from error
    log(f"{len(jobs)} elements cancelled, of which {n_started} run: they save and end")
    if kept:
        log(f"{len(kept)} elements continue: they have other runs to do")
    if jobs:
        log("`run` submits their runs again")
