"""Entry point of each rank: join the process group, train, and record how the run ended."""

import contextlib
import os
import platform
import sys
import time
import traceback
from pathlib import Path

import psutil
import torch

from harness.distributed.lost_peers import is_lost_peer
from harness.distributed.process_group import DistributedContext, join
from harness.errors import ClaimLost, ExitCode, StoreError, UserError
from harness.probes.memory import gpu_capacity, is_of_gpu, is_out_of_memory
from harness.provenance.archive import archive_code
from harness.provenance.contents import Contents
from harness.provenance.present_code import PresentCode
from harness.provenance.sources import Sources
from harness.results.checkpoints import drop_states
from harness.results.claims import Claim, owner_of
from harness.results.host_memory import host_capacities
from harness.results.out_of_memory import Machine, explain, explain_host
from harness.results.rank_log import print_into_log
from harness.results.records import Environment, FailureReason, ProbeResults, RunSpec
from harness.results.run import Run
from harness.results.timing import timing_of_process
from harness.system_limits import is_disk_full, remedy_of
from harness.training.environment import describe
from harness.training.loop import NotFiniteError, train
from harness.training.seeding import set_deterministic
from harness.training.signals import StopRequest, TrainingInterrupted
from harness.training.watch import Watch
from variants import global_state
from variants.errors import loaded_files, text_of

PEER_RECORD_S = 5.0  # for the failing rank, or what watches the ranks, to record the cause
POLL_INTERVAL_S = 0.1
CUDA_ADVICE = ". GPU "  # after what was asked for, figures that `_explain_memory` has as well
GLOO_ADVICE = ". This is typically caused by"  # after the cause


def run_worker(run_path: Path, claim: int | None, loaded: Contents | None = None) -> None:
    """Train one run in the process that torchrun started, and record in its status how it ended.

    With the number of a `claim`, the launcher holds it and has marked the run as running. With
    None, the ranks were started by hand: rank 0 claims the run and marks it, and the ranks print
    into its log. A run that is done is left as it is then. `loaded` are the hashes of the code from
    before it was loaded: a rank whose code or data are not those of the spec fails before step 0.

    Raises:
        SystemExit: the run is not done; the exit code says why.
    """
    started = time.time()
    run = Run(run_path, claim)
    if claim is None and run.exists and run.status.status == "done":
        print(f"{run.run_id} is done; remove its folder to train it again")
        return
    stop = StopRequest.on_signals()
    held: Claim | None = None
    try:
        spec = run.spec
        _check_world_size(run, spec)
        if claim is None and os.environ["RANK"] == "0":
            held = _claim(run, spec)
            run = held.run
        set_deterministic(spec.train.deterministic)
        limits = spec.launch
        with (
            Watch(run, limits, stop) as watch,
            join(spec.train.device, limits.stall_timeout_s, limits.network_interface) as context,
        ):
            run = _meet(run, context, watch)
            code = PresentCode(run, loaded)
            _train(run, spec, context, watch, stop, started, code)
    except ClaimLost:
        sys.exit(ExitCode.CLAIM_LOST)
    except BaseException as error:  # a variant may raise anything
        with contextlib.suppress(Exception):  # the disk may be full, the stream closed
            traceback.print_exc()
        _record_failure(run, error, stop)
        sys.exit(ExitCode.SOME_FAILED)  # torchrun would write an exception to the disk
    finally:
        stop.restore_handlers()
        if held is not None:
            held.release()
        _end_copies()
    if stop.exit_code:
        sys.exit(stop.exit_code)


def _end_copies() -> None:
    """Kill the processes that a variant has forked from this one: they would slow later runs."""
    ignored = contextlib.suppress(psutil.Error, OSError)
    with ignored:
        command = psutil.Process().cmdline()
        for child in psutil.Process().children(recursive=True):
            with ignored:  # one that has just ended
                if child.cmdline() == command:  # else it is another program, as a compiler's
                    child.kill()


def _claim(run: Run, spec: RunSpec) -> Claim:
    """Claim a run for this process, mark it as running, and print into its log from now on.

    Raises:
        ClaimLost: another process has it.
    """
    held = run.claim()
    if held is None:
        print(f"{run.run_id}: another process trains it ({_describe_owner(run)})", file=sys.stderr)
        raise ClaimLost(run.run_id)
    held.run.mark_running(_archive_code(run, spec))
    print(f"{run.run_id}: the output is in {run.log_path}", flush=True)
    print_into_log(held.run)
    return held


def _describe_owner(run: Run) -> str:
    owner = owner_of(run.claims)
    if owner is None:
        return "it has just ended: start this command again"
    job = "" if owner.job is None else f", Slurm job {owner.job}"
    return f"process {owner.pid} on {owner.host}{job}"


def _meet(run: Run, context: DistributedContext, watch: Watch) -> Run:
    """Exchange hosts and the number of the claim with the other ranks; return the fenced run.

    No rank writes before: rank 0 prepares the folder.
    """
    ranks = context.gather((platform.node(), run.claim_number))
    if run.claim_number is None:  # started by hand, and not rank 0
        run = Run(run.path, ranks[0][1])
        print_into_log(run)
    watch.hosts = [host for host, _ in ranks]
    watch.run = run
    watch.joined = context
    return run


def _archive_code(run: Run, spec: RunSpec) -> str:
    """Archive the code of this process, which may be newer than the spec; return its hash."""
    source_run = None if spec.source_id is None else run.sibling(spec.source_id).spec
    code = Sources().code(spec, source_run)
    archive_code(run.archive, [code])
    return code.hash


def _check_world_size(run: Run, spec: RunSpec) -> None:
    world_size = int(os.environ["WORLD_SIZE"])
    if world_size != spec.launch.world_size:
        raise UserError(
            f"{run.run_id} needs {spec.launch.world_size} processes, torchrun started {world_size}"
        )


def _train(
    run: Run,
    spec: RunSpec,
    context: DistributedContext,
    watch: Watch,
    stop: StopRequest,
    started: float,
    code: PresentCode,
) -> None:
    if context.is_first:
        run.write_env(describe(spec, context, watch.hosts, _earlier_environment(run)))
    try:
        with global_state.restored() as changes:
            probes = train(run, spec, context, stop, code)
    except TrainingInterrupted as error:
        _refuse(changes)
        if context.is_first and run.status.status == "running":  # else it is recorded why
            if watch.timeout is not None:
                run.finish("failed", "timeout", f"{watch.timeout}; {error}")
            else:
                run.finish("interrupted", "killed", str(error))
        return
    _refuse(changes)
    run.flush(context.rank)
    checksums: dict[str, int] = {}
    for part in context.gather(run.checksums_of(context.rank)):  # all have written their last step
        checksums |= part
    if context.is_first:
        probes = _with_total_time(probes, time.time() - started)
        run.write_probes(probes.model_copy(update={"checksums": checksums}))
        run.finish("done")
        drop_states(run, spec.launch.keep_checkpoints)


def _refuse(changes: global_state.Changes) -> None:
    """Fail a run whose code has changed the state of its process, on which its times depend.

    Raises:
        UserError: it has.
    """
    if changes:
        raise UserError(f"code of {loaded_files() or 'a library'} {changes}")


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


def _record_failure(run: Run, error: BaseException, stop: StopRequest) -> None:
    """Record why this rank failed, unless the cause is recorded or is not known to this rank.

    A rank that lost a peer waits, so that the peer can record why it failed, or what watches the
    ranks that it was killed: then it asks this rank to end.
    """
    if run.claim_number is None or not run.exists:
        return  # the ranks were started by hand, and this one does not hold the run
    reason = _reason(error)
    deadline = time.monotonic() + (PEER_RECORD_S if reason == "lost" else 0.0)
    with contextlib.suppress(ClaimLost):
        while run.status.status == "running" and stop.requested != ExitCode.INTERRUPTED:
            if time.monotonic() >= deadline:
                message = f"{type(error).__name__}: {text_of(error)}".splitlines()[0]
                message = message.partition(GLOO_ADVICE)[0] + remedy_of(error)
                if reason == "oom":
                    message = f"{message.partition(CUDA_ADVICE)[0]}; {_explain_memory(run, error)}"
                run.finish("failed", reason, message)
                return
            time.sleep(POLL_INTERVAL_S)


def _explain_memory(run: Run, error: BaseException) -> str:
    """Return what this rank was predicted to need, what there is, and which settings need less."""
    n_local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        if is_of_gpu(error):
            device = torch.device("cuda", torch.cuda.current_device())
            machine = Machine(has_bf16=torch.cuda.is_bf16_supported(including_emulation=False))
            return explain(run.spec, [gpu_capacity(device)], machine, n_local_ranks)
        machine = Machine(is_shared=timing_of_process() == "shared")
        return explain_host(run.spec, host_capacities(), machine, n_local_ranks)
    except Exception as failure:  # memory may still be short
        return f"the need is unknown ({type(failure).__name__})"


def _reason(error: BaseException) -> FailureReason:
    if isinstance(error, NotFiniteError):
        return "nan"
    if is_out_of_memory(error):
        return "oom"
    if is_disk_full(error):
        return "disk"
    return "lost" if is_lost_peer(error) else "error"
