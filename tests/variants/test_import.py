"""A folder `variants` in the working directory does not shadow the package."""

import subprocess
import sys

import pytest

STUDY = """
[study]
name = "own"
seeds = [0]
variant_paths = ["variants"]

[model]
n_layer = 1
n_head = 2
n_embd = 16
seq_len = 16

[data]
corpus = "synthetic"

[train]
steps = 2
tokens_per_step = 64
eval_every = 2
eval_tokens = 64
device = "cpu"

[axes]
positional = ["learned", "late"]
"""
LATE = """
from variants.positional.learned import Learned


class Late(Learned):
    def embed(self, x_BTC, positions_T):
        return x_BTC + 0.5 * self.wpe(positions_T)
"""
IN_A_SCRIPT = """
try:
    import variants.positional.learned
except ImportError:
    pass
import harness
from variants.registry import load
assert load("positional", "rope").__name__ == "Rope"
"""


@pytest.fixture(params=["namespace", "package"])
def folder(request, tmp_path):
    """A working directory with a folder `variants`, with and without `__init__.py`."""
    own = tmp_path / "variants" / "positional"
    own.mkdir(parents=True)
    (own / "late.py").write_text(LATE)
    if request.param == "package":
        (own.parent / "__init__.py").touch()
        (own / "__init__.py").touch()
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path


def python(folder, *arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.distributed
@pytest.mark.parametrize("folder", ["package"], indirect=True)
def test_own_variants_folder_runs(folder):
    result = python(folder, "-m", "harness", "run", "study.toml")
    assert result.returncode == 0, result.stderr
    runs = [path.name for path in (folder / "results" / "own").iterdir()]
    assert len([name for name in runs if name.startswith(("learned-", "late-"))]) == 2, runs


def test_own_variants_folder_lists(folder):
    """A folder `variants` that the study does not name is ignored."""
    text = STUDY.replace('variant_paths = ["variants"]', "").replace(', "late"', "")
    (folder / "study.toml").write_text(text)
    result = python(folder, "-m", "harness", "list", "study.toml")
    assert result.returncode == 0, result.stderr
    assert "learned" in result.stdout


def test_own_variants_folder_in_a_script(folder):
    """Scripts have their own folder first on the path, notebooks the working directory."""
    (folder / "script.py").write_text(IN_A_SCRIPT)
    result = python(folder, "script.py")
    assert result.returncode == 0, result.stderr
