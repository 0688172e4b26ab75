"""A run that is done, or that another process trains, must not be lost to a process by hand."""

import os
import signal
import socket
from pathlib import Path

import pytest
import torch.distributed as dist
from untrained_study import UntrainedStudy

from harness.cli.worker import worker
from harness.errors import ExitCode, UserError
from harness.provenance.archive import archive_code
from harness.provenance.sources import Sources
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


@pytest.mark.parametrize("when", ["before it is loaded", "while it is loaded"])
def test_code_edited_before_step_0_fails_the_run_by_name(when, rank, tmp_path, monkeypatch):
    """The run would be stored under the hash of the code before the edit."""
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    for name, value in {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(listener.getsockname()[1]))
    study = UntrainedStudy(tmp_path)
    variant = "from variants.positional.learned import Learned\nclass Ours(Learned):\n    x = 1\n"
    study.variant.write_text(variant)
    spec = next(spec for spec in study.plan().runs if spec.entry == "ours-mha-single")
    if when == "while it is loaded":
        edit = "PATH.write_text(PATH.read_text().replace('x = 1', 'x = 2'))"
        study.variant.write_text(
            f"from pathlib import Path\nPATH = Path(__file__)\n{edit}\n{variant}"
        )
    code = Sources().code(spec)
    archive_code(study.store.archive("s"), [code])
    study.store.run("s", spec.run_id).create(spec.model_copy(update={"code_hash": code.hash}))
    claim = study.store.run("s", spec.run_id).claim()
    claim.run.mark_running()
    if when == "before it is loaded":
        study.edit("x = 1", "x = 2")
    with pytest.raises(SystemExit):
        run_worker(claim.run.path, claim.run.claim_number)
    dist.destroy_process_group()
    status = Run(claim.run.path).status
    assert (status.status, status.reason) == ("failed", "error")
    assert "ours.py: has changed since the run was planned" in status.message
    assert not list(claim.run.path.glob("steps.*")), "a step was trained"
    claim.release()


def test_a_worker_that_no_torchrun_started_says_so(fake, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="torchrun --standalone"):
        worker(Path("spec.json"))
