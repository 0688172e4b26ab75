"""Timing runs: a few steps of a run that shared its machine, now by itself, to measure times."""

from collections.abc import Sequence

from harness.errors import StoreError
from harness.launch.one_run import RunLog, StartRun, change_since_planned, source_run
from harness.launch.placement import randomize_within_seed
from harness.results.files import remove
from harness.results.records import N_UNTIMED_STEPS, RunSpec
from harness.results.run import Run
from harness.results.store import Store


def due_timing_runs(store: Store, specs: Sequence[RunSpec], n_steps: int) -> list[RunSpec]:
    """Return the runs that are to be timed, random within each seed.

    They are done and shared their machine, and no timing run of the same code and steps is done.
    """
    due = []
    for spec in specs:
        run = store.run(spec.study, spec.run_id)
        try:
            has_ended = run.exists and run.status.status == "done"
            is_current = has_ended and run.code_hash == spec.code_hash and spec.tuning is None
            if is_current and _is_shared(run) and not _is_timed(run.timing_run, spec, n_steps):
                due.append(spec)
        except StoreError:  # readers report the damaged file
            continue
    return randomize_within_seed(due)


def _is_shared(run: Run) -> bool:
    env = run.env
    return env is not None and env.timing == "shared"


def _is_timed(timing_run: Run, spec: RunSpec, n_steps: int) -> bool:
    if not timing_run.exists or timing_run.status.status != "done":
        return False
    is_current = timing_run.code_hash == spec.code_hash
    return is_current and timing_run.spec.train.steps == N_UNTIMED_STEPS + n_steps


def timing_spec(spec: RunSpec, n_steps: int) -> RunSpec:
    """Return the spec of the timing run: `n_steps` timed steps, all of the run's last batch size.

    It starts from random parameters and keeps no checkpoint.
    """
    n_all = N_UNTIMED_STEPS + n_steps
    train = spec.train.model_copy(update={"steps": n_all, "eval_every": n_all, "batch_ramp": None})
    launch = spec.launch.model_copy(update={"keep_checkpoints": "none", "trace": False})
    probes = spec.probes.model_copy(update={"eval_lengths": None, "lm_eval": None})
    changed = {"train": train, "launch": launch, "probes": probes, "init": None}
    return spec.model_copy(update=changed)


def start_timing_run(
    store: Store, spec: RunSpec, short: RunSpec, start: StartRun, log: RunLog
) -> None:
    """Train `short`, the timing run of `spec`, unless another process does or the code changed."""
    timing_run = store.run(spec.study, spec.run_id).timing_run
    try:
        claim = timing_run.claim()
    except StoreError as error:
        log.skip_run(timing_run, str(error))
        return
    if claim is None:
        log.skip_run(timing_run, "another process times it")
        return
    with claim:
        change = change_since_planned(store, spec, source_run(store, spec))
        if change is not None:
            log.skip_run(timing_run, f"{change} since this launch began")
            return
        remove(timing_run.path)
        claim.run.update_spec(short)
        log.start_run(claim.run, short)
        start(claim.run, short.launch)
        log.end_run(claim.run)
