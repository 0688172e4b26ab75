"""Fixtures: the command line in a folder with a small text."""

import math
from collections.abc import Iterator

import pytest
from command_line import Harness

from harness.preflight import models

STUDY = """
[study]
name = "s"
seeds = [0]
variant_paths = ["{folder}"]

[model]
n_layer = 2
n_head = 4
n_embd = 32
seq_len = 64

[data]
corpus = "text.txt"

[train]
steps = 8
tokens_per_step = 128

[axes]
"""


class Study:
    """The command line with a study of two variants: GPT-2's, and one of `folder`."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.path = harness.folder / "study.toml"
        (harness.folder / "text.txt").write_text("the old cat sees the red owl.\n" * 100)

    def write(self, folder: object, more: str = "", study: str = "", **axes: str) -> None:
        """Write the study; `axes` are in TOML, `study` is added to its first section."""
        text = STUDY.replace("{folder}", str(folder)).replace("seeds", f"{study}\nseeds")
        choices = [f"{axis} = {elements}\n" for axis, elements in axes.items()]
        self.path.write_text(text + "".join(choices) + more)

    def run(self, *arguments: object, command: str = "run", code: int = 0) -> str:
        """Return what a command on the study prints to stderr."""
        return self.harness(command, self.path, *arguments, code=code).stderr

    @property
    def has_results(self) -> bool:
        """Whether anything was written to the folder of the results."""
        return (self.harness.folder / "results").exists()


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Leave out the progress, which depends on the load of the machine."""
    monkeypatch.setattr(models, "QUIET_S", math.inf)


@pytest.fixture
def study(tmp_path) -> Iterator[Study]:
    harness = Harness(tmp_path)
    harness.env["ABLATIONS_CACHE"] = str(tmp_path / "own_cache")
    yield Study(harness)
    harness.stop()
