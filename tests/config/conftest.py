from pathlib import Path

import pytest

STUDY = """
[study]
name = "s"
seeds = [0, 1]
baseline = { positional = "learned", attention = "mha", parallelism = "single" }

[model]
n_layer = 2
n_head = 4
n_embd = 32
seq_len = 16

[data]
corpus = "text.txt"

[train]
steps = 4
tokens_per_step = 128

[axes]
positional = ["learned", "rope"]
attention = ["mha", { variant = "gqa", n_kv_head = 2 }, { variant = "sliding_window", window = 4 }]
parallelism = ["single", { variant = "ddp", nproc = 2 }]
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write_study(tmp_path):
    """Return a function that writes STUDY with replacements, and a small corpus next to it."""

    def write(*replacements: tuple[str, str], more: str = "") -> Path:
        text = STUDY
        for old, new in replacements:
            assert old in text, old
            text = text.replace(old, new)
        (tmp_path / "text.txt").write_text("To be, or not to be, that is the question.\n" * 40)
        path = tmp_path / "study.toml"
        path.write_text(text + more)
        return path

    return write
