"""Kill the processes of a study at random, start it again, compare with an undisturbed one."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from harness.results.store import Run, Store

STUDY = """
[study]
name = "chaos"
seeds = [0]
variant_paths = ["mine"]

[model]
n_layer = 2
n_head = 2
n_embd = 16
seq_len = 16
dropout = 0.1

[data]
corpus = "text.txt"

[train]
steps = {steps}
tokens_per_step = 128
micro_batch_size = 2
eval_every = 8
device = "cpu"

[launch]
timeout_s = 300
checkpoint_every = 3

[axes]
positional = ["slow"]
parallelism = {parallelism}
"""
SLOW = """
import time
from variants.positional.learned import Learned


class Slow(Learned):
    def embed(self, x_BTC, positions_T):
        if not x_BTC.is_meta and self.training:
            time.sleep(0.005)
        return super().embed(x_BTC, positions_T)
"""
ALL = '["single", { variant = "ddp", nproc = 2 }, { variant = "fsdp", nproc = 2 }]'
PATIENCE_S = 120  # for something to happen at all


@dataclass
class Chaos:
    """A folder with a study; `disturb` kills its runs, and `curves` returns their losses."""

    folder: Path
    seed: int
    steps: int = 40
    parallelism: str = ALL
    kills: Counter = field(default_factory=Counter)
    seen: dict[int, psutil.Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        print(f"seed of the kills: {self.seed}")
        self.draw = random.Random(self.seed)
        words = [
            f"the {a} {b} sees {c}.\n"
            for a in ("old", "red", "sad")
            for b in ("cat", "owl")
            for c in range(200)
        ]
        (self.folder / "text.txt").write_text("".join(words))
        (self.folder / "mine/positional").mkdir(parents=True)
        (self.folder / "mine/positional/slow.py").write_text(SLOW)
        text = STUDY.replace("{steps}", str(self.steps)).replace("{parallelism}", self.parallelism)
        (self.folder / "study.toml").write_text(text)

    def start(self, results: str, *options: str) -> subprocess.Popen:
        """Start the command line on one results folder; its output goes to a file."""
        command = [
            sys.executable,
            "-m",
            "harness",
            "run",
            "study.toml",
            "--results",
            results,
            *options,
        ]
        with open(self.folder / "printed.txt", "a") as printed:
            env = os.environ | {"ABLATIONS_CACHE": str(self.folder / "cache")}
            process = subprocess.Popen(
                command, cwd=self.folder, env=env, stdout=printed, stderr=printed
            )
        self.seen[process.pid] = psutil.Process(process.pid)
        return process

    def runs(self, results: str) -> list[Run]:
        return Store(self.folder / results).runs("chaos")

    def curves(self, results: str) -> dict[str, object]:
        """Return all of the curves of each run but times and flags."""
        found = {}
        for run in self.runs(results):
            steps = run.steps()
            evals = [(line.step, line.val_loss, line.bits_per_byte) for line in run.evals()]
            found[run.run_id] = (
                steps.loss.tolist(),
                steps.grad_norm.tolist(),
                steps.lr.tolist(),
                evals,
            )
            assert steps.step.tolist() == list(range(self.steps)), run.run_id
        return found

    def whole(self) -> dict[str, object]:
        """Return the curves of the study that nothing disturbs."""
        assert self.start("whole").wait(600) == 0
        return self.curves("whole")

    def disturb(self, results: str, n_kills: int) -> int:
        """Kill up to `n_kills` times until the study is done, and return how often that was."""
        killed = 0
        while True:
            failed = any(run.status.status == "failed" for run in self.runs(results))
            process = self.start(results, *(["--retry-failed"] if failed else []))
            while killed < n_kills and (victim := self._victim(results, process)) is not None:
                kind, number, victims = victim
                with contextlib.suppress(psutil.NoSuchProcess):
                    for one in victims:
                        one.send_signal(number)
                    killed += 1
                    self.kills[f"{kind} {signal.Signals(number).name}"] += 1
                if kind == "harness":
                    break
            process.wait(600)
            statuses = [run.status.status for run in self.runs(results)]
            if statuses and set(statuses) == {"done"}:
                return killed

    def _victim(
        self, results: str, harness: subprocess.Popen
    ) -> tuple[str, int, list[psutil.Process]] | None:
        """Wait for a random time and choose a process; None if the harness has ended by then."""
        in_checkpoint = self.draw.random() < 0.3
        wait_s, end = self.draw.uniform(0.0, 1.0), time.monotonic() + PATIENCE_S
        while harness.poll() is None and time.monotonic() < end:
            ranks = self._ranks(harness)
            if (
                ranks
                and in_checkpoint
                and not list((self.folder / results).glob("chaos/*/checkpoint/.step-*.tmp"))
            ):
                time.sleep(0.001)
                continue
            if ranks:
                break
            time.sleep(0.02)
        if not in_checkpoint:
            time.sleep(wait_s)
        ranks = self._ranks(harness)
        if harness.poll() is not None or not ranks:
            return None if harness.poll() is not None else self._victim(results, harness)
        if self.draw.random() < 0.6:
            return "rank", signal.SIGKILL, [self.draw.choice(ranks)]
        number = self.draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        return "harness", number, [psutil.Process(harness.pid)]

    def _ranks(self, harness: subprocess.Popen) -> list[psutil.Process]:
        """Return the ranks: what the fork server has made, which the harness has started."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(harness.pid).children():
                self.seen[child.pid] = child
                found += child.children()
        self.seen |= {one.pid: one for one in found}
        return found

    def left(self) -> list[psutil.Process]:
        """Return which of all processes seen are still there after a while."""
        _, alive = psutil.wait_procs(list(self.seen.values()), timeout=30)
        with contextlib.suppress(psutil.NoSuchProcess):
            return [
                one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE
            ]
        return []
