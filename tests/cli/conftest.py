"""Fixtures of the tests of commands."""

import pytest


@pytest.fixture
def start_runs_by(monkeypatch):
    """Return a function that makes `run` start runs by a function, and not in other processes."""

    def replace(start):
        def start_anywhere(run, launch, *slot, **options):
            start(run, launch)

        monkeypatch.setattr("harness.launch.agent.start", start_anywhere)
        monkeypatch.setattr("harness.launch.fork_server.start_fork_server", lambda: None)
        monkeypatch.setattr("os.fsync", lambda fd: None)
        return start

    return replace
