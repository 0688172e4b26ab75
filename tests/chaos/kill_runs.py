"""Kill the processes of a study at random and start it again, for comparison with a whole one."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from command_line import all_end, command_process

from harness.results.run import Run
from harness.results.store import Store

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
checkpoint_every = 3
checkpoint_every_s = 0.02

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
            time.sleep({step_s})
        return super().embed(x_BTC, positions_T)
"""
PARALLELISMS = '["single", { variant = "ddp", nproc = 2 }, { variant = "fsdp", nproc = 2 }]'
CHECKPOINT_FRACTION = 0.3  # of the kills: while a checkpoint is written
RANK_FRACTION = 0.6  # of the kills: one rank, otherwise the harness
MAX_DELAY_S = 1.0
HARNESS_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Victim:
    """A process to signal."""

    kind: str
    process: psutil.Process
    number: signal.Signals


@dataclass
class KilledStudy:
    """A folder with a study; `run_with_kills` kills its processes, `curves` returns its results.

    `seed` determines the kills. `kills` counts them by kind. `processes` are all that were started.
    """

    folder: Path
    seed: int
    steps: int = 40
    parallelism: str = PARALLELISMS
    step_s: float = 0.005
    env: dict[str, str] = field(default_factory=dict)  # of the command line
    kills: Counter[str] = field(default_factory=Counter)
    processes: dict[int, psutil.Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        print(f"seed of the kills: {self.seed}")
        self._random = random.Random(self.seed)
        lines = [
            f"the {adjective} {noun} sees {number}.\n"
            for adjective in ("old", "red", "sad")
            for noun in ("cat", "owl")
            for number in range(200)
        ]
        (self.folder / "text.txt").write_text("".join(lines))
        (self.folder / "mine/positional").mkdir(parents=True)
        (self.folder / "mine/positional/slow.py").write_text(
            SLOW.replace("{step_s}", str(self.step_s))
        )
        text = STUDY.replace("{steps}", str(self.steps)).replace("{parallelism}", self.parallelism)
        (self.folder / "study.toml").write_text(text)

    def runs(self, results: str) -> list[Run]:
        return Store(self.folder / results).runs("chaos")

    def curves(self, results: str) -> dict[str, object]:
        """Return the recorded values of each run that do not depend on time or attempts."""
        curves: dict[str, object] = {}
        for run in self.runs(results):
            steps = run.steps()
            assert steps.step.tolist() == list(range(self.steps)), run.run_id
            curves[run.run_id] = (
                steps.loss.tolist(),
                steps.grad_norm.tolist(),
                steps.lr.tolist(),
                [(line.step, line.val_loss, line.bits_per_byte) for line in run.evals()],
            )
        return curves

    def run_undisturbed(self) -> dict[str, object]:
        """Return the curves of a study that runs without kills."""
        assert self._start("undisturbed").wait() == 0
        return self.curves("undisturbed")

    def run_with_kills(self, results: str, max_kills: int) -> int:
        """Kill up to `max_kills` times until the study is done; return the number of kills."""
        n_kills = 0
        while True:
            failed = any(run.status.status == "failed" for run in self.runs(results))
            harness = self._start(results, *(["--retry-failed"] if failed else []))
            while n_kills < max_kills and (victim := self._choose(results, harness)) is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.process.send_signal(victim.number)
                    n_kills += 1
                    self.kills[f"{victim.kind} {victim.number.name}"] += 1
                if victim.kind == "harness":
                    break
            harness.wait()
            statuses = [run.status.status for run in self.runs(results)]
            if statuses and set(statuses) == {"done"}:
                return n_kills

    def all_end(self) -> bool:
        """Return whether every process that was started ends."""
        return all_end(self.processes.values())

    def _start(
        self, results: str, *options: str, program: Sequence[str] = ("-m", "harness")
    ) -> subprocess.Popen:
        """Start the command line on one results folder; its output goes to a file."""
        command = [sys.executable, *program, "run", "study.toml", "--results", results]
        env = os.environ | {"ABLATIONS_CACHE": str(self.folder / "cache")} | self.env
        with open(self.folder / "output.txt", "a") as output:
            process = subprocess.Popen(
                [*command, *options], cwd=self.folder, env=env, stdout=output, stderr=output
            )
        self.processes[process.pid] = psutil.Process(process.pid)
        return process

    def _choose(self, results: str, harness: subprocess.Popen) -> Victim | None:
        """Wait for a random moment and choose a process; None if the harness ends before."""
        in_checkpoint = self._random.random() < CHECKPOINT_FRACTION
        delay_s = self._random.uniform(0.0, MAX_DELAY_S)
        while harness.poll() is None:
            if not self._ranks(harness) or (in_checkpoint and not self._in_checkpoint(results)):
                time.sleep(0.002)
                continue
            if not in_checkpoint:
                time.sleep(delay_s)
            ranks = self._ranks(harness)
            if ranks and harness.poll() is None:
                return self._victim(harness, ranks)
        return None

    def _victim(self, harness: subprocess.Popen, ranks: list[psutil.Process]) -> Victim:
        if self._random.random() < RANK_FRACTION:
            return Victim("rank", self._random.choice(ranks), signal.SIGKILL)
        number = self._random.choice(HARNESS_SIGNALS)
        process = self._random.choice([self.processes[harness.pid], self._command])
        return Victim("harness", process, number)

    def _in_checkpoint(self, results: str) -> bool:
        return any((self.folder / results).glob("chaos/*/checkpoint/.step-*.tmp"))

    def _ranks(self, harness: subprocess.Popen) -> list[psutil.Process]:
        """Return the ranks: the children of the fork server, which the harness started."""
        ranks = []
        with contextlib.suppress(psutil.NoSuchProcess):
            self._command = command_process(harness.pid)
            self.processes[self._command.pid] = self._command
            for child in self._command.children():
                self.processes[child.pid] = child
                ranks += child.children()
        self.processes |= {rank.pid: rank for rank in ranks}
        return ranks
