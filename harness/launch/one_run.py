"""Decide about one claimed run, start it, and report how it ended; every backend uses this."""

from collections.abc import Callable
from typing import Protocol

from harness.errors import ClaimLost, StoreError
from harness.provenance.outdated import CodeChange, ComputedBy
from harness.provenance.sources import Sources
from harness.results.claims import Claim
from harness.results.records import LaunchSpec, RunSpec, RunStatus
from harness.results.run import Run
from harness.results.store import Store
from harness.system_limits import is_of_a_file

FAILURE_LOG_LINES = 12  # of a failed run's log, shown at once

StartRun = Callable[[Run, LaunchSpec], None]


class RunLog(Protocol):
    """Reports of a backend about its runs, from any thread."""

    def log(self, text: str) -> None:
        """Print a permanent line."""

    def start_run(self, run: Run, spec: RunSpec) -> None:
        """Report that a run starts; several may run at once."""

    def end_run(self, run: Run) -> None:
        """Report how a run that was started has ended."""

    def skip_run(self, run: Run, reason: str) -> None:
        """Report that a run is not started or is given up, and why."""


def run_claimed(
    store: Store,
    spec: RunSpec,
    claim: Claim,
    start: StartRun,
    log: RunLog,
    before: RunStatus | None = None,
) -> None:
    """Start a claimed run by `start`, which returns when it has ended; release the claim.

    `before` is the run's status when it was selected, by default its present one. A run that has
    ended since, or that cannot start now, is not started. One whose files are removed or damaged
    meanwhile fails by itself.
    """
    with claim:
        try:
            claim.run.create(spec)  # unless the user has removed its folder, it exists
            _run(store, spec, claim, start, log, before or claim.run.status)
        except ClaimLost:
            log.skip_run(claim.run, "another process has taken it over")
        except StoreError as error:
            log.skip_run(claim.run, f"its files were removed or damaged ({error})")
        except OSError as error:
            if not is_of_a_file(error):  # such as a full disk, which ends all runs
                raise
            log.skip_run(claim.run, f"its files were removed or damaged ({error})")


def _run(
    store: Store, spec: RunSpec, claim: Claim, start: StartRun, log: RunLog, before: RunStatus
) -> None:
    run = claim.run
    status = run.status
    has_restarted = status.started_at != before.started_at
    # Another process may have ended it before `before` was read, but after the runs were selected.
    is_current = spec.code_hash is not None and run.code_hash == spec.code_hash
    is_new = has_restarted or before.status != "done" or is_current
    if (status.status == "done" and is_new) or (status.status == "failed" and has_restarted):
        log.skip_run(run, f"{status.status} by another process")
        return
    source = source_run(store, spec)
    if source is not None and source.outcome.status != "done":
        log.skip_run(run, f"waits for {source.run_id}, which is not done")
        return
    change = _change_of_source(store, spec, source)
    if change is not None:
        remedy = "`run` without --accept-outdated" if change.is_accepted else "`run`"
        log.skip_run(run, f"it starts from an outdated run ({change}); {remedy} trains both")
        return
    change = change_since_planned(store, spec, source)
    if change is not None:
        log.skip_run(run, f"{change} since this launch began; `run` again starts it")
        return
    run = prepare(run, spec, log.log)
    log.start_run(run, spec)
    try:
        start(run, spec.launch)
    except (StoreError, FileNotFoundError) as error:
        log.log(f"{run.run_id}: its files were removed or damaged while it trained ({error})")
    log.end_run(run)
    if run.outcome.status == "failed":
        log.log(end_of_log(run))


def prepare(run: Run, spec: RunSpec, log: Callable[[str], None]) -> Run:
    """Give a claimed run the spec that it starts with; return it.

    Files of other code move away, and so do those of a run whose status was lost.
    """
    reason = None
    is_pending = not run.exists or run.status.status == "pending"
    if is_pending and run.has_results:
        reason = "although it has results, its status was missing or `pending`"
    elif not is_pending and run.code_hash != spec.code_hash:
        reason = "with changed code"
    if reason is not None:
        folder = run.set_aside()
        log(f"{run.run_id}: starts at step 0 {reason}; earlier files: {folder}")
        run = Run(run.path, run.claim_number)  # without the spec that it has read
    run.update_spec(spec)
    return run


def end_of_log(run: Run) -> str:
    """Return the last lines of the log of a run that failed, and its path."""
    lines = [f"    {line}" for line in run.log_tail(FAILURE_LOG_LINES)]
    return "\n".join([*lines, f"    the whole log: {run.log_path}"])


def source_run(store: Store, spec: RunSpec) -> Run | None:
    """Return the run whose checkpoint this one starts from, if there is one."""
    return None if spec.source_id is None else store.run(spec.study, spec.source_id)


def change_since_planned(store: Store, spec: RunSpec, source: Run | None) -> CodeChange | None:
    """Return the change of a run's code since its spec was made.

    The ranks would compute with a mixture: they fork from a process with the older training code.
    """
    current = Sources().code(spec, source.spec if source else None)
    return ComputedBy(spec.code_hash).change(current, store.archive(spec.study))


def _change_of_source(store: Store, spec: RunSpec, source: Run | None) -> CodeChange | None:
    """Return the change of the source run's code since it was trained: it may not be retried."""
    if source is None:
        return None
    launch = source.spec.launch.model_copy(update={"variant_paths": spec.launch.variant_paths})
    current = Sources().code(source.spec.model_copy(update={"launch": launch}))
    return ComputedBy.of(source.spec, source.status).change(current, store.archive(spec.study))
