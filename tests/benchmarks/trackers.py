"""Time training steps with and without a live tracker: `python tests/benchmarks/trackers.py`.

One run of the shipped study's baseline trains for each tracker, followed as `run` does it. Its
follower is suspended and continued in alternate blocks of steps, so that both conditions share the
process, the data and the phases of the machine. A continued follower forwards the points of both
blocks, which is twice the work of a live one.
"""

import argparse
import os
import signal
import socket
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ratios import ratio

from harness import config
from harness.launch import scheduler
from harness.launch.trackers import Trackers
from harness.preflight import check_study
from harness.results.records import LaunchSpec
from harness.results.run import Run
from harness.results.store import Store
from harness.training.loop import Loop
from harness.training.main import run_worker

ORDER = (True, False, False, True)  # whether the tracker is on; a drift of the machine cancels


@dataclass
class Blocks:
    """Seconds per step of each block: whether the tracker was on, wall time, processor time."""

    n_steps: int
    trackers: Trackers
    is_on: list[bool] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._start = (time.perf_counter(), time.process_time())

    def end_step(self, step: int) -> None:
        """Close the block if it has all its steps, and prepare the next one."""
        if (step + 1) % self.n_steps:
            return
        now = (time.perf_counter(), time.process_time())
        self.is_on.append(self._is_on(len(self.is_on)))
        self.wall_s.append((now[0] - self._start[0]) / self.n_steps)
        self.cpu_s.append((now[1] - self._start[1]) / self.n_steps)
        self.signal(self._is_on(len(self.is_on)))
        self._start = (time.perf_counter(), time.process_time())

    def signal(self, is_on: bool) -> None:
        for follower in self.trackers._followers:
            if follower._process is not None:  # and its children, as wandb has
                os.killpg(follower._process.pid, signal.SIGCONT if is_on else signal.SIGSTOP)

    def _is_on(self, block: int) -> bool:
        return ORDER[block % len(ORDER)]

    def paired(self, seconds: list[float]) -> tuple[list[float], list[float]]:
        """Return the blocks with the tracker and those without; the first four are dropped."""
        whole = range(len(ORDER), len(seconds) - len(seconds) % len(ORDER))
        on = [seconds[i] for i in whole if self.is_on[i]]
        off = [seconds[i] for i in whole if not self.is_on[i]]
        return on, off


def train_here(run: Run, launch: LaunchSpec) -> None:
    """Train a run of one rank in this process, where its processor time can be read."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", **place}
    run.mark_running()
    run_worker(run.path, run.claim_number)


def measure(tracker: str, n_blocks: int, n_steps: int, folder: Path) -> Blocks:
    """Train with a tracker, on and off in turn."""
    settings = [
        f"train.steps={n_blocks * n_steps}",
        f"train.eval_every={n_steps}",
        "launch.keep_checkpoints=none",
    ]
    where = ["positional=learned", "attention=mha", "parallelism=single"]
    planned = config.load(Path("ablations.toml"), settings, [0], where)
    planned = check_study(planned, "ablations.toml", print)
    store = Store(folder / "results")
    scheduler.plan_runs(store, planned.name, planned.runs, planned.all_run_ids)
    (spec,) = planned.runs
    record = Loop._record
    with Trackers([tracker], store, planned.name, print, folder / "exports") as trackers:
        blocks = Blocks(n_steps, trackers)

        def record_and_count(loop, step, loss, result):
            record(loop, step, loss, result)
            blocks.end_step(step)

        Loop._record = record_and_count
        try:
            trackers.followed(train_here)(store.run(planned.name, spec.run_id), spec.launch)
        finally:
            Loop._record = record
            blocks.signal(is_on=True)
    return blocks


def main() -> None:
    """Print the change of the time of a step by each tracker, with its 95 % interval."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trackers", nargs="*", default=["tensorboard", "wandb", "mlflow"])
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60, help="of a block, of at least 5 s")
    options = parser.parse_args()
    for tracker in options.trackers:
        with tempfile.TemporaryDirectory() as folder:
            blocks = measure(tracker, options.blocks, options.steps, Path(folder))
        for name, seconds in (("processor", blocks.cpu_s), ("wall", blocks.wall_s)):
            on, off = blocks.paired(seconds)
            found = ratio(tracker, off, tracker, on)  # with the tracker / without
            spread = np.std(np.log(off), ddof=1)
            print(
                f"{tracker}, {name} time: {found.ratio - 1:+.2%} "
                f"[{found.ci95[0] - 1:+.2%}, {found.ci95[1] - 1:+.2%}] of "
                f"{np.median(off) * 1e3:.2f} ms per step, {len(on)} pairs of blocks; "
                f"spread between blocks without {spread:.2%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
