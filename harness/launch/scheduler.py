"""Select the runs to do, and record the planned runs and those that have ended."""

import contextlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from harness.errors import ClaimLost, StoreError
from harness.provenance.outdated import CodeChange
from harness.results.checkpoints import drop_states, superfluous_states
from harness.results.files import REMEDY, remove_temporaries
from harness.results.records import ENDED, RunSpec
from harness.results.run import Outcome, Run
from harness.results.store import Store
from harness.system_limits import is_of_a_file

N_WRITERS = 16  # threads that create or prepare runs; each waits for the disk
# Fields of a spec that follow from the other entries of the study, and are not in the run's id.
STUDY_FIELDS = ("settings_hash", "baseline", "axes", "tuning")
PENDING = Outcome("pending", None, None)
# Fields of a spec that the run's id or its folder states; those of the settings are in its hash.
IDENTITY_FIELDS = ("study", "run_id", "seed", "data_seed", "eval_windows", "data_offset_steps")


@dataclass(frozen=True)
class RunSelection:
    """The selected runs, by their state."""

    todo: list[RunSpec] = field(default_factory=list)
    done: list[RunSpec] = field(default_factory=list)
    failed: list[RunSpec] = field(default_factory=list)  # earlier, and not to be retried
    running: list[RunSpec] = field(default_factory=list)  # in another process
    unreadable: dict[str, str] = field(default_factory=dict)  # reasons, by run id
    changes: dict[str, CodeChange] = field(default_factory=dict)  # since outdated runs, by run id

    def notes(self) -> list[str]:
        """Return a line for each reason why runs are not started at once."""
        lines = [
            f"{spec.run_id}: runs in another process; awaited at the end" for spec in self.running
        ]
        for change, n_runs in Counter(map(str, self.changes.values())).items():
            lines.append(f"{n_runs} outdated: {change}")
        if self.changes:
            lines.append(
                "outdated runs are trained again; their results are kept in .outdated/ of the "
                "study's results; --accept-outdated keeps them as results instead"
            )
        if self.failed:
            n_failed = len(self.failed)
            lines.append(f"{n_failed} failed earlier and are skipped; --retry-failed retries them")
        lines += [f"{run_id}: skipped: {why}" for run_id, why in self.unreadable.items()]
        return lines


def select_runs(
    store: Store,
    specs: Sequence[RunSpec],
    changes: Mapping[str, CodeChange],
    retry_failed: bool = False,
) -> RunSelection:
    """Sort the runs by their state. With `retry_failed`, only the failed runs are to do.

    Runs that cannot be read are not to do: only the user can say whether they have a result.
    Runs that have `changes` in their code are to do again, unless the user accepts their results.
    """
    selection = RunSelection()
    for spec in specs:
        run = store.run(spec.study, spec.run_id)
        outcome = run.outcome if run.exists else PENDING
        status = outcome.status
        change = changes.get(spec.run_id)
        problem = None
        if status == "unreadable":
            problem = str(outcome.message)
        elif status in ENDED:
            problem = _problem_of_spec(run, spec)
        if problem is not None:
            selection.unreadable[spec.run_id] = problem
        elif status == "running":
            selection.running.append(spec)
        elif change is not None and not change.is_accepted:
            if not retry_failed or status == "failed":
                selection.changes[spec.run_id] = change
                selection.todo.append(spec)
        elif status == "done":
            selection.done.append(spec)
        elif status == "failed" and outcome.reason == "lost":
            selection.todo.append(spec)  # it resumes, as after an interruption
        elif (status == "failed") == retry_failed:
            selection.todo.append(spec)
        elif status == "failed":
            selection.failed.append(spec)
    return selection


def _problem_of_spec(run: Run, planned: RunSpec) -> str | None:
    """Return why the spec of a run that has ended is not the one that its id stands for."""
    try:
        stored = run.spec
    except StoreError as error:
        return str(error)
    for name in IDENTITY_FIELDS:
        if getattr(stored, name) != getattr(planned, name):
            return f"{run.path / 'spec.json'}: {name} is not that of the run's id; {REMEDY}"
    for name in ("model", "train"):
        there = getattr(stored, name).hashed()
        for key, value in getattr(planned, name).hashed().items():
            if there.get(key, value) != value:
                found = f"{name}.{key} is {there[key]}, not {value} as the run's id states"
                return f"{run.path / 'spec.json'}: {found}; {REMEDY}"
    return None


def plan_runs(store: Store, study: str, specs: Sequence[RunSpec], all_run_ids: set[str]) -> None:
    """Record the runs as pending, and drop pending runs that the study no longer contains."""
    store.prune_pending(study, keep=all_run_ids)
    with ThreadPoolExecutor(N_WRITERS) as writers:
        list(writers.map(lambda spec: _create(store, spec), specs))


def _create(store: Store, spec: RunSpec) -> None:
    try:
        store.run(spec.study, spec.run_id).create(spec)
    except StoreError:  # its start names it
        pass
    except OSError as error:
        if not is_of_a_file(error):
            raise


def update_study_fields(store: Store, ended: Sequence[RunSpec]) -> None:
    """Store the `STUDY_FIELDS` of runs that have ended as the study defines them now.

    The study may have got other levels, tuned settings or another baseline since they were trained.
    """
    for spec in ended:
        run = store.run(spec.study, spec.run_id)
        update = {name: getattr(spec, name) for name in STUDY_FIELDS}
        if spec.allowed:
            update["allowed"] = spec.allowed
        with contextlib.suppress(StoreError):  # a damaged spec is reported when it is read
            updated = run.spec.model_copy(update=update)
            if updated != run.spec:
                run.update_spec(updated)


def copy_runs(store: Store, specs: Sequence[RunSpec], source_ids: Mapping[str, str]) -> int:
    """Give runs the results of others that differ in their names only; return how many.

    `source_ids` has the id of the other run by run id. One that is not done is not copied.
    """
    n_copied = 0
    for spec in specs:
        source = store.run(spec.study, source_ids[spec.run_id])
        with contextlib.suppress(StoreError):  # the run is damaged: it is not done
            n_copied += _copy(store.run(spec.study, spec.run_id), source, spec)
    return n_copied


def _copy(target: Run, source: Run, spec: RunSpec) -> bool:
    """Give a run the results of another one; return False if it has its own, or those are none."""
    claim = target.claim(wait_s=math.inf)
    assert claim is not None  # a claim without a time limit always succeeds
    with claim:
        run = claim.run
        state = run.outcome.status
        is_current = state == "done" and run.code_hash == spec.code_hash
        if is_current or state == "unreadable" or source.outcome.status != "done":
            return False
        if state != "pending" or run.has_results:
            run.set_aside()
        run.copy_from(source, spec)
    return True


def remove_left_files(store: Store, study: str, done: Sequence[RunSpec]) -> None:
    """Remove what crashes have left: temporary files, and states that finished runs do not keep."""
    store.remove_temporaries(study)
    for spec in done:
        run = store.run(spec.study, spec.run_id)
        remove_temporaries(run.path)
        if not superfluous_states(run, "none"):
            continue
        with contextlib.suppress(ClaimLost, StoreError):
            if not superfluous_states(run, run.spec.launch.keep_checkpoints):
                continue
            claim = run.claim()
            if claim is None:
                continue
            with claim:
                if claim.run.status.status == "done":
                    drop_states(claim.run, claim.run.spec.launch.keep_checkpoints)
