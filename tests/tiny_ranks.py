"""Ranks that do not train: they write down what they got, then execute a script."""

import json
import os
import signal
from pathlib import Path

from harness.launch.fork_server import BLOCKED
from harness.results.run import Run

FACTS = ("MASTER_PORT", "WORLD_SIZE", "OMP_NUM_THREADS", "ABLATIONS_TIMING", "CUDA_VISIBLE_DEVICES")


def run_worker(path: Path, claim: object, loaded: object) -> None:
    """Record this rank's environment, then execute the script beside the run's folder."""
    facts: dict[str, object] = {name: os.environ.get(name) for name in FACTS}
    facts["pid"] = os.getpid()
    facts["cores"] = sorted(os.sched_getaffinity(0))
    facts["blocked"] = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    script = path.with_suffix(".py").read_text()
    if "pthread_sigmask" not in script:  # otherwise, it has handlers first
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
    new = path / f".rank{os.environ['RANK']}.new"
    new.write_text(json.dumps(facts))
    new.rename(path / f"rank{os.environ['RANK']}.json")
    exec(script, {"run": Run(path), "rank": int(os.environ["RANK"])})
