"""Made-up results for the tests of the report."""

import pytest
from made_up import Fake


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch):
    """Made-up results need not outlive the machine, and flushing them takes most of the time."""
    monkeypatch.setattr("os.fsync", lambda fd: None)


@pytest.fixture
def fake(tmp_path) -> Fake:
    """An empty results folder for a made-up study; `fake.write()` fills it."""
    return Fake(tmp_path / "results")


@pytest.fixture
def one_axis(fake) -> Fake:
    """A study of two entries that differ in attention alone."""
    fake.axes = {"positional": ["learned"], "attention": ["mha", "gqa2"], "parallelism": ["single"]}
    return fake


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes most of the time, and some tests are about words alone."""
    monkeypatch.setattr("harness.report.charts.draw_all", lambda summary, floor: [])
