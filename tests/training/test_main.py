"""A run that is done, or that another process trains, must not be lost to a process by hand."""

import os
import signal
from pathlib import Path

import pytest

from harness.cli.worker import worker
from harness.errors import ExitCode, UserError
from harness.results import owner as owners
from harness.results.store import Run
from harness.training.main import run_worker
from harness.training.signals import EXIT_CODES


def test_worker_leaves_a_run_that_is_done_as_it_is(fake, capsys):
    run = fake.write().store.runs(fake.name)[0]
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    run_worker(run.path, claim=None)
    after = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert after == before
    assert f"{run.run_id} is done" in capsys.readouterr().out


HOLDERS = {"this host": {}, "another host": {"host": "n7", "boot_id": "other", "job": "12_3"}}


@pytest.fixture
def rank(monkeypatch):
    """Make this process the only rank of a run."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    handlers = {number: signal.getsignal(number) for number in EXIT_CODES}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("has_started", [False, True])
def test_a_second_worker_leaves_the_run_to_the_first(
    fake, rank, monkeypatch, capsys, holder, has_started
):
    fake.outcome = {"learned-mha-single-s0": ("pending", None, None)}
    runs = fake.write().store.runs(fake.name)
    (first,) = [run for run in runs if run.status.status == "pending"]
    owner = owners.this_process().model_copy(update=HOLDERS[holder])
    with monkeypatch.context() as patch:
        patch.setattr(owners, "this_process", lambda: owner)
        claim = first.claim()
        if has_started:
            claim.run.mark_running()
    before = {path: path.read_bytes() for path in first.path.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as end:
        run_worker(first.path, claim=None)
    assert end.value.code == ExitCode.CLAIM_LOST
    after = {path: path.read_bytes() for path in first.path.rglob("*") if path.is_file()}
    assert after == before and claim.is_current()
    assert Run(first.path).status.status == ("running" if has_started else "pending")
    printed = capsys.readouterr().err
    assert f"process {os.getpid()} on {owner.host}" in printed and "Traceback" not in printed
    assert ("Slurm job 12_3" in printed) == (holder == "another host")
    claim.release()


def test_a_worker_that_no_torchrun_started_says_so(fake, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="torchrun --standalone"):
        worker(Path("spec.json"))
