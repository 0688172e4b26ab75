"""The figures of `make gpu-bench`, measured at a small shape on a CPU."""

import importlib.util
from pathlib import Path

import gpu_figures
import pytest
import torch
from tape import Tape

from harness.results.files import write_json
from harness.results.records import now
from harness.results.records.gpu import GpuFigures
from variants.base import ModelShape

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
TINY = ModelShape(n_layer=2, n_head=2, n_embd=32, seq_len=16, vocab_size=31)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_every_figure_is_measured_and_shown(tmp_path, monkeypatch):
    """A mistake would be found by the person who has lent a GPU."""
    monkeypatch.setattr(gpu_figures, "N_ROUNDS", 6)
    figures = [
        *gpu_figures.training(CPU, TINY, micro_batch=2, peak=1e12, backend="eager"),
        *gpu_figures.window(CPU, seq_len=64, width=16, n_head=2),
        *gpu_figures.decoding(CPU, TINY, Tape),
    ]
    torch.compiler.reset()
    assert [figure.unit for figure in figures] == [
        "tokens/s",
        "of the vendor's peak",
        "x",
        "x",
        "x",
        "x",
        "x",
    ]
    assert [figure.target for figure in figures] == [500_000, 0.5, None, 5.0, 0.7, None, None]
    for figure in figures:
        low, high = figure.interval
        assert 0 < low <= figure.value <= high
    record = GpuFigures(
        device="a GPU",
        torch_version="2",
        cuda_version=None,
        commit=None,
        measured_at=now(),
        figures=figures,
    )
    write_json(tmp_path / "a.json", record)
    spec = importlib.util.spec_from_file_location("formats", ROOT / "docs/formats.py")
    formats = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formats)
    page = formats.gpu_page(tmp_path)
    assert "## a GPU" in page and "No figures" not in page
    assert all(f"| {figure.figure} |" in page for figure in figures)
    assert "No figures have been measured yet" in formats.gpu_page(tmp_path / "none")
