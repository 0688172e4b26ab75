"""One rank's whole life: join the others, train, and say how it ended."""

import os
import sys
import time
import traceback
from pathlib import Path

from harness.distributed.process_group import join
from harness.results.records import RunSpec
from harness.results.store import Reason, Run
from harness.training.checkpointing import drop_state
from harness.training.environment import describe
from harness.training.errors import NotFiniteError, out_of_memory
from harness.training.loop import train
from harness.training.seeding import enforce
from harness.training.signals import STOPPED, Stop, StoppedError

PEERS_S = 1.0  # for another rank, or the launcher, to say what happened


def work(run_path: Path, begin: bool) -> None:
    """Run one entry in the process that torchrun started; `begin` claims it and marks it as running first.

    Whatever ends it is written to the run's status and raised.
    """
    started = time.time()
    run, stop = Run(run_path), Stop.on_signals()
    claim = run.claim() if begin and os.environ["RANK"] == "0" else None
    try:
        spec = RunSpec.model_validate(run.spec)
        enforce(spec.train.deterministic)
        with join(spec.train.device) as ranks:
            if ranks.world_size != spec.launch.world_size:
                raise ValueError(
                    f"{run.run_id} is for {spec.launch.world_size} processes, torchrun started {ranks.world_size}"
                )
            if begin and ranks.is_first:
                if claim is None:
                    raise RuntimeError(f"{run.run_id} is run by another process")
                run.begin()
            ranks.gather(None)  # nobody writes before the folder is ready
            if ranks.is_first:
                run.write_env(describe(spec, ranks))
            probes = train(run, spec, ranks, stop)
            ranks.gather(None)  # all have written their last step
            if ranks.is_first:
                probes["time"]["total_s"] = time.time() - started
                run.write_probes(probes)
                run.end("done")
                drop_state(run, spec.launch.keep_checkpoints)
    except StoppedError as error:  # whoever asked for it may tell why
        if run.status["status"] == "running":
            run.end("interrupted", "killed", str(error))
    except Exception as error:
        traceback.print_exc()
        if _is_ours_to_tell(run, error, stop):
            run.end("failed", _reason(error), f"{type(error).__name__}: {error}".splitlines()[0])
        raise
    finally:
        stop.release()
        if claim is not None:
            claim.release()
    if stop.asked:
        sys.exit(STOPPED)


def _is_ours_to_tell(run: Run, error: Exception, stop: Stop) -> bool:
    """The first rank to fail knows why; the others have only lost it, and so leave it the time to speak.

    Where it cannot, being killed, the launcher notices, asks the others to end, and tells.
    """
    if (
        isinstance(error, RuntimeError)
        and _reason(error) == "error"
        and int(os.environ["WORLD_SIZE"]) > 1
    ):
        time.sleep(PEERS_S)
    known = (run.path / "status.json").exists()
    return known and run.status["status"] == "running" and not stop.asked


def _reason(error: Exception) -> Reason:
    if isinstance(error, NotFiniteError):
        return "nan"
    return "oom" if out_of_memory(error) else "error"
