"""Fixtures for all tests: single-threaded torch, and studies of synthetic results."""

import pytest
import torch
from synthetic_results import SyntheticStudy


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Use one thread: faster at these sizes, and it fixes the order of floating-point sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fake(tmp_path, monkeypatch) -> SyntheticStudy:
    """An empty results folder for a synthetic study; `fake.write()` fills it without flushing to disk."""
    monkeypatch.setattr("os.fsync", lambda fd: None)
    return SyntheticStudy(tmp_path / "results")


@pytest.fixture
def one_axis(fake) -> SyntheticStudy:
    """A synthetic study of two entries that differ in attention only."""
    fake.axes = {"positional": ["learned"], "attention": ["mha", "gqa2"], "parallelism": ["single"]}
    return fake


@pytest.fixture
def no_figures(monkeypatch):
    """Skip drawing, which takes most of the time of a report."""
    monkeypatch.setattr("harness.report.charts.draw_all", lambda summary, floor: [])
