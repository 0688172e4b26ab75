import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

Finished = subprocess.CompletedProcess

STUDY = """
[study]
name = "s"
seeds = [0]
variant_paths = ["mine"]

[model]
n_layer = 2
n_head = 4
n_embd = 32
seq_len = 32
dropout = 0.1

[data]
corpus = "text.txt"

[train]
steps = 8
tokens_per_step = 512
micro_batch_size = 4
lr = 1e-2
eval_every = 4
deterministic = true
device = "cpu"

[axes]
positional = {positional}
attention = {attention}
parallelism = {parallelism}
"""


class Harness:
    """The command line in a folder of its own; `stop` ends the processes that it started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = os.environ | {"ABLATIONS_CACHE": str(folder / "cache"), "COLUMNS": "200"}
        self.processes: list[subprocess.Popen] = []

    def study(
        self, positional: str, attention: str = '["mha"]', parallelism: str = '["single"]'
    ) -> Path:
        words = [
            f"the {a} {b} sees {c}.\n"
            for a in ("old", "red", "sad")
            for b in ("cat", "owl")
            for c in range(200)
        ]
        (self.folder / "text.txt").write_text("".join(words))
        path = self.folder / "study.toml"
        text = STUDY.replace("{positional}", positional).replace("{attention}", attention)
        path.write_text(text.replace("{parallelism}", parallelism))
        (self.folder / "mine/positional").mkdir(parents=True, exist_ok=True)
        return path

    def variant(self, name: str, body: str) -> None:
        """Add a positional variant whose `embed` has this body, except on meta tensors."""
        (self.folder / f"mine/positional/{name}.py").write_text(
            "import os, signal, time\n"
            "import torch\n"
            "from variants.base import Positional\n\n\n"
            "class V(Positional):\n"
            "    def embed(self, x, positions):\n"
            "        if x.is_meta: return x\n"
            f"        {body}\n"
            "        return x\n"
        )

    def start(
        self, *arguments: object, settings=(), where=(), program=("-m", "harness")
    ) -> subprocess.Popen:
        """Start a command in a process group of its own, with an option for each override."""
        overrides = [f"--set={setting}" for setting in settings]
        overrides += [f"--where={condition}" for condition in where]
        command = [sys.executable, *program, *map(str, arguments), *overrides]
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.env,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def __call__(self, *arguments: object, code: int = 0, **options) -> Finished:
        process = self.start(*arguments, **options)
        out, err = process.communicate()
        assert process.returncode == code, err
        assert "Traceback" not in err or code == 1, err
        return Finished(process.args, process.returncode, out, err)

    def stop(self) -> None:
        """Kill the process groups that are left, e.g. after Ctrl-C in pytest."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture(scope="module")
def harness(tmp_path_factory) -> Iterator[Harness]:
    harness = Harness(tmp_path_factory.mktemp("harness"))
    yield harness
    harness.stop()


@pytest.fixture
def new_harness(tmp_path) -> Iterator[Harness]:
    harness = Harness(tmp_path)
    yield harness
    harness.stop()
