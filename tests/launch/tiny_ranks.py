"""Ranks that do not train: they write down what they got, then do what `do.py` of the run says."""

import json
import os
import signal
import time
from pathlib import Path


def run_worker(path: Path, claim: object) -> None:
    """Record this rank's environment, with the default action of signals, then do as told."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2))
    facts = {name: os.environ.get(name) for name in ("MASTER_PORT", "WORLD_SIZE", "RANK")}
    facts["threads"] = os.environ.get("OMP_NUM_THREADS")
    facts["timing"] = os.environ.get("ABLATIONS_TIMING")
    facts["devices"] = os.environ.get("CUDA_VISIBLE_DEVICES")
    facts["cores"] = sorted(os.sched_getaffinity(0))
    facts["pid"] = os.getpid()
    new = path / f".rank{os.environ['RANK']}.new"
    new.write_text(json.dumps(facts))
    new.rename(path / f"rank{os.environ['RANK']}.json")
    exec((path / "do.py").read_text(), {"path": path, "time": time, "os": os, "signal": signal})
