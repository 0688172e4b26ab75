"""The examples work as printed: the script, and the notebook with the same steps."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(one_axis):
    """A folder with the results of a small study."""
    one_axis.axes["attention"] = ["mha", "gqa2", "local64"]
    one_axis.write()
    return one_axis.root.parent


def check_output(folder, text):
    assert "StudyFrames('tiny': 3 entries, 9 runs)" in text
    assert "learned-gqa2-single" in text
    assert any(verdict in text for verdict in ("better", "worse", "unresolved"))
    assert (folder / "val_loss_by_variant.pdf").stat().st_size > 1000
    table = (folder / "paired.tex").read_text()
    assert "\\toprule" in table and table.count("\\\\\n") == 3


def test_the_script_runs(folder):
    command = [sys.executable, str(ROOT / "examples/analysis.py"), "tiny"]
    env = {"MPLBACKEND": "agg", "PATH": "", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    check_output(folder, ended.stdout)


@pytest.mark.filterwarnings("ignore")  # of the kernel's client
def test_the_notebook_runs(folder, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples/analysis.ipynb", as_version=4)
    NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    check_output(folder, "".join(output.get("text", "") for output in outputs))


def test_the_notebook_matches_its_script_without_outputs():
    """`make docs` writes it."""
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "docs/notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stored = nbformat.read(ROOT / "examples/analysis.ipynb", as_version=4)
    assert stored == module.notebook()
    assert not any(cell.get("outputs") for cell in stored.cells)
