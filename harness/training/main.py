"""Entry point of each rank: join the process group, train, and record how the run ended."""

import contextlib
import os
import sys
import time
import traceback
from pathlib import Path

from harness.distributed.process_group import DistributedContext, join
from harness.errors import ClaimLost, ExitCode, StoreError
from harness.probes.memory import is_out_of_memory
from harness.provenance.archive import archive_code
from harness.provenance.sources import Sources
from harness.results.records import Environment, FailureReason, ProbeResults, RunSpec
from harness.results.store import Run
from harness.training.checkpointing import drop_state
from harness.training.environment import describe
from harness.training.loop import NotFiniteError, train
from harness.training.seeding import set_deterministic
from harness.training.signals import StopRequest, TrainingInterrupted

FAILURE_REPORT_DELAY_S = 1.0  # for the failing peer, or the launcher, to record the cause


def run_worker(run_path: Path, claim: bool) -> None:
    """Train one run in the process that torchrun started, and record in its status how it ended.

    With `claim`, rank 0 locks the run and marks it as running first; otherwise the launcher has
    done so. A run that is done is left as it is.
    """
    started = time.time()
    run = Run(run_path)
    if claim and run.exists and run.status.status == "done":
        print(f"{run.run_id} is done; remove its folder to train it again")
        return
    stop = StopRequest.on_signals()
    held = run.claim() if claim and os.environ["RANK"] == "0" else None
    if held is not None:
        run = held.run
    try:
        spec = run.spec
        set_deterministic(spec.train.deterministic)
        with join(spec.train.device) as context:
            _check_world_size(run, spec, context)
            if claim and context.is_first:
                if held is None:
                    raise RuntimeError(f"{run.run_id} is claimed by another process")
                run.mark_running(_archive_code(run, spec))
            _train(run, spec, context, stop, started)
    except TrainingInterrupted as error:
        if run.status.status == "running":  # else the launcher has recorded why
            run.finish("interrupted", "killed", str(error))
    except ClaimLost:
        sys.exit(ExitCode.CLAIM_LOST)
    except Exception as error:
        with contextlib.suppress(OSError):  # the disk may be full
            traceback.print_exc()
        if _should_record(run, error, stop):
            run.finish("failed", _reason(error), f"{type(error).__name__}: {error}".splitlines()[0])
        sys.exit(ExitCode.SOME_FAILED)  # torchrun would write an exception to the disk
    finally:
        stop.restore_handlers()
        if held is not None:
            held.release()
    if stop.requested:
        sys.exit(ExitCode.INTERRUPTED)


def _archive_code(run: Run, spec: RunSpec) -> str:
    """Archive the code of this process, which may be newer than the spec; return its hash."""
    source_run = None
    if spec.init is not None and spec.init.run_id is not None:
        source_run = run.sibling(spec.init.run_id).spec
    code = Sources().code(spec, source_run)
    archive_code(run.archive, [code])
    return code.hash


def _check_world_size(run: Run, spec: RunSpec, context: DistributedContext) -> None:
    if context.world_size != spec.launch.world_size:
        raise ValueError(
            f"{run.run_id} needs {spec.launch.world_size} processes, torchrun started "
            f"{context.world_size}"
        )


def _train(
    run: Run, spec: RunSpec, context: DistributedContext, stop: StopRequest, started: float
) -> None:
    context.barrier()  # no rank writes before the folder is ready
    if context.is_first:
        run.write_env(describe(spec, context, _earlier_environment(run)))
    probes = train(run, spec, context, stop)
    context.barrier()  # all ranks have written their last step
    if context.is_first:
        run.write_probes(_with_total_time(probes, time.time() - started))
        run.finish("done")
        drop_state(run, spec.launch.keep_checkpoints)


def _earlier_environment(run: Run) -> Environment | None:
    """Return the environment of the attempt that this one may resume."""
    try:
        return run.env
    except StoreError:  # damaged by a crash
        return None


def _with_total_time(probes: ProbeResults, total_s: float) -> ProbeResults:
    assert probes.time is not None
    run_time = probes.time.model_copy(update={"total_s": total_s})
    return probes.model_copy(update={"time": run_time})


def _should_record(run: Run, error: Exception, stop: StopRequest) -> bool:
    """Return whether this rank should record the failure.

    Ranks that fail because a peer died wait, so that the peer can report the cause; if the peer was
    killed, the launcher reports it.
    """
    if (
        isinstance(error, RuntimeError)
        and _reason(error) == "error"
        and int(os.environ["WORLD_SIZE"]) > 1
    ):
        time.sleep(FAILURE_REPORT_DELAY_S)
    return run.exists and run.status.status == "running" and not stop.requested


def _reason(error: Exception) -> FailureReason:
    if isinstance(error, NotFiniteError):
        return "nan"
    return "oom" if is_out_of_memory(error) else "error"
