import os
import subprocess
import sys
from pathlib import Path

import pytest

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

[launch]
timeout_s = 120

[axes]
positional = {positional}
attention = {attention}
parallelism = {parallelism}
"""


class Harness:
    """The command line in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = os.environ | {"ABLATIONS_CACHE": str(folder / "cache"), "COLUMNS": "200"}

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
        """Add a positional variant whose `embed` has this body, except where only shapes are asked for."""
        text = "import os, signal, time\nimport torch\nfrom variants.base import Positional\n\n\nclass V(Positional):\n"
        text += f"    def embed(self, x, positions):\n        if x.is_meta: return x\n        {body}\n        return x\n"
        (self.folder / f"mine/positional/{name}.py").write_text(text)

    def start(self, *arguments: object) -> subprocess.Popen:
        command = [sys.executable, "-m", "harness", *map(str, arguments)]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.env,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: object, code: int = 0) -> subprocess.CompletedProcess:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, err
        assert "Traceback" not in err or code == 1, err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(scope="module")
def harness(tmp_path_factory) -> Harness:
    return Harness(tmp_path_factory.mktemp("harness"))


@pytest.fixture
def new_harness(tmp_path) -> Harness:
    return Harness(tmp_path)
