"""Without these, a job would train into a folder that is gone, or recreate a part of it."""

import os
import time

import pytest

from harness.errors import UserError
from harness.launch.slurm import commands
from harness.launch.slurm.commands import CommandError, QueueEntry
from harness.launch.slurm.queue import unqueued
from harness.results.files import write_json
from harness.results.records import RunStatus, Submission
from harness.results.store import Store

# State of the element (None: squeue does not answer), status of its run, and what is refused.
STATES = {
    "waiting": ("PENDING", "pending", "is in the queue (job 7_0); `cancel s` ends it first"),
    "running": ("RUNNING", "running", "is in the queue (job 7_0); `cancel s` ends it first"),
    "ending": ("COMPLETING", "interrupted", "is in the queue"),
    "submitted again": ("PENDING", "failed before", "is in the queue"),
    "damaged": ("PENDING", "damaged", "is in the queue"),
    "cancelled": ("CANCELLED", "interrupted", None),
    "done": ("RUNNING", "done", None),
    "failed": ("RUNNING", "failed", None),
    "forgotten": ("", "interrupted", None),
    "open": (None, "interrupted", "may be in the queue, which cannot be asked (no answer)"),
    "open and damaged": (None, "damaged", "may be in the queue"),
    "closed": (None, "done", None),
    "closed by a failure": (None, "failed", None),
}


@pytest.mark.parametrize(("state", "status", "refusal"), STATES.values(), ids=STATES)
def test_runs_in_the_queue_are_refused_by_name(tmp_path, monkeypatch, state, status, refusal):
    store = Store(tmp_path)
    store.record_submission("s", Submission(id="7", job="7", name="n", elements=[["r"]]))
    run = store.run("s", "r")
    file = run.path / "status.json"
    if status == "damaged":
        run.path.mkdir()
        file.write_text("{")
    else:
        write_json(file, RunStatus(status=status.split()[0], boot_id="x", pid=1, pid_started=0))
    at = time.time_ns() + (-1 if status == "failed before" else 1) * 10**12
    os.utime(file, ns=(at, at))

    def squeue(names):
        if state is None:
            raise CommandError("no answer")
        return [QueueEntry("7_0", "7", 0, name, state, "", "") for name in names if state]

    monkeypatch.setattr(commands, "squeue", squeue)
    if refusal is None:
        with unqueued(store, "s", [run]):
            pass
        return
    with pytest.raises(UserError) as error, unqueued(store, "s", [run]):
        pass
    assert f"{run.path}: {refusal}" in str(error.value)
    assert store.claim_submitting("s") is not None


def test_runs_that_were_never_submitted_need_no_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with unqueued(Store(tmp_path), "s", [Store(tmp_path).run("s", "r")]):
        assert Store(tmp_path).claim_submitting("s") is None  # none is submitted meanwhile
