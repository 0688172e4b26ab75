"""One rank's whole life: join the others, train, and say how it ended."""

import time
import traceback
from pathlib import Path

from harness.spec import RunSpec
from harness.store import Reason, Run
from harness.worker.determinism import enforce
from harness.worker.environment import describe
from harness.worker.errors import NotFiniteError, out_of_memory
from harness.worker.loop import train
from harness.worker.ranks import join


def work(run_path: Path, begin: bool) -> None:
    """Run one entry in the process that torchrun started; `begin` marks it as running first.

    Whatever ends it is written to the run's status and raised.
    """
    started = time.time()
    run = Run(run_path)
    try:
        spec = RunSpec.model_validate(run.spec)
        enforce(spec.train.deterministic)
        with join(spec.train.device) as ranks:
            if ranks.n_ranks != spec.launch.nproc:
                raise ValueError(f"{run.run_id} is for {spec.launch.nproc} processes, torchrun started {ranks.n_ranks}")
            if begin and ranks.is_first:
                run.begin()
            ranks.gather(None)  # nobody writes before the folder is ready
            if ranks.is_first:
                run.write_env(describe(spec, ranks))
            probes = train(run, spec, ranks)
            ranks.gather(None)  # all have written their last step
            if ranks.is_first:
                probes["time"]["total_s"] = time.time() - started
                run.write_probes(probes)
                run.end("done")
    except Exception as error:
        traceback.print_exc()
        known = (run_path / "status.json").exists()
        if known and run.status["status"] == "running":  # the first rank to fail knows why; the others only lost it
            run.end("failed", _reason(error), f"{type(error).__name__}: {error}".splitlines()[0])
        raise


def _reason(error: Exception) -> Reason:
    if isinstance(error, NotFiniteError):
        return "nan"
    return "oom" if out_of_memory(error) else "error"
