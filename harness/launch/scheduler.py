"""Which runs are due and in which order, and running them one after the other; one that fails stops no other."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from harness.launch.progress import ProgressReporter
from harness.results.records import LaunchSpec, RunSpec
from harness.results.store import Run, Store

LOG_LINES = 12  # of a failed run's log, shown at once

Start = Callable[[Run, LaunchSpec], None]


@dataclass(frozen=True)
class RunSelection:
    """The selected runs by what is to be done with them."""

    todo: list[RunSpec]
    done: list[RunSpec]
    failed: list[RunSpec]  # earlier, and not asked to be tried again
    running: list[RunSpec]  # in another process


def due(store: Store, specs: Sequence[RunSpec], retry_failed: bool = False) -> RunSelection:
    """Look up what each run has come to; with `retry_failed`, what failed is due and nothing else."""
    result = RunSelection([], [], [], [])
    for spec in specs:
        run = store.run(spec.study, spec.run_id)
        status = run.status.status if run.exists else "pending"
        if status == "done":
            result.done.append(spec)
        elif status == "running":
            result.running.append(spec)
        elif (status == "failed") == retry_failed:
            result.todo.append(spec)
        elif status == "failed":
            result.failed.append(spec)
    return result


def randomize_within_seed(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """Return the runs in a random order inside each seed's block, so that a slowing machine slows no variant.

    What others start from comes before them.
    """
    blocks = [list(block) for _, block in groupby(specs, key=lambda spec: spec.seed)]
    for block in blocks:
        random.shuffle(block)
        block.sort(key=lambda spec: _source(spec) is not None)
    return [spec for block in blocks for spec in block]


def _source(spec: RunSpec) -> str | None:
    """Return the id of the run that this one starts from, if it does."""
    return spec.init.run_id if spec.init else None


def run_all(store: Store, specs: Sequence[RunSpec], start: Start, fail_fast: bool) -> None:
    """Start each run in the given order and wait for its end; `fail_fast` stops at the first that fails.

    Other processes may work on the same results: what one of them has claimed is passed over, and at the end waited
    for; it is taken over should that process die. A run whose source is not done stays pending.
    """
    runs = [store.run(spec.study, spec.run_id) for spec in specs]
    started = {run.run_id: run.status.started_at for run in runs}
    with ProgressReporter(specs) as watch:
        left = list(specs)
        for wait in (False, True):
            specs, left = sorted(left, key=lambda spec: wait and _source(spec) is not None), []
            for spec in specs:
                run = store.run(spec.study, spec.run_id)
                if not wait and _is_running(store, spec):
                    left.append(spec)
                    continue
                claim = run.claim()
                if claim is None and wait:
                    watch.say(f"waits for {run.run_id}, which another process runs")
                    claim = run.claim(wait_s=-1)
                if claim is None:
                    left.append(spec)
                    continue
                try:
                    _work(store, spec, start, watch, started[spec.run_id])
                finally:
                    claim.release()
                if fail_fast and run.status.status == "failed":
                    return


def _is_running(store: Store, spec: RunSpec) -> bool:
    """Tell whether another process runs what this run starts from."""
    source = _source(spec)
    return source is not None and store.run(spec.study, source).status.status == "running"


def _work(
    store: Store, spec: RunSpec, start: Start, watch: ProgressReporter, started: str | None
) -> None:
    """Run what is ours by now, unless another process has ended it meanwhile or what it starts from is not done."""
    run, source = store.run(spec.study, spec.run_id), _source(spec)
    run.update_spec(spec)
    status = run.status
    if status.status == "done" or (status.status == "failed" and status.started_at != started):
        watch.skip(run, f"{status.status} by another process")
        return
    if source is not None and store.run(spec.study, source).status.status != "done":
        watch.skip(run, f"waits for {source}, which is not done")
        return
    watch.begin(run, spec)
    start(run, spec.launch)
    watch.end(run)
    if run.status.status == "failed":
        watch.say("\n".join(f"    {line}" for line in run.log_tail(LOG_LINES)))
        watch.say(f"    the whole log: {run.log_path}")
