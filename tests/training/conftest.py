"""Fixtures of the training tests."""

import pytest
import torch
from tiny_run import tiny_spec

from harness.results.run import Run
from harness.training import checkpointing


@pytest.fixture(autouse=True)
def _restore_determinism():
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(autouse=True)
def _checkpoint_in_flight_is_written(monkeypatch):
    """Let a training that fails wait for its checkpoint, however long a busy disk takes."""
    monkeypatch.setattr(checkpointing, "CRASH_GRACE_S", 600.0)


@pytest.fixture
def running(tmp_path):
    """Return a run that this process has claimed and marked as running."""
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.create(tiny_spec(tmp_path))
    with run.claim() as claim:
        claim.run.mark_running()
        yield claim.run
