"""Without these, Slurm would run code that was edited after the submission, or another folder's."""

import contextlib
import os
from unittest import mock

import pytest
from command_line import Harness

from harness.cli.studies import load_study
from harness.launch import scheduler
from harness.launch.slurm.submit import submit
from harness.results.records import LaunchSettings, SlurmSettings
from harness.results.store import Store

pytestmark = [pytest.mark.slurm, pytest.mark.distributed]


def test_queued_runs_keep_the_code_of_their_submission(cluster, tmp_path):
    folder = tmp_path / '100% ü "it\'s" $HOME'
    folder.mkdir()
    harness = Harness(folder)
    study = harness.study('["mine"]')
    harness.variant("mine", "pass")
    settings = SlurmSettings(
        time="0-00:05",
        max_parallel=1,
        setup=["export FROM_SETUP=1"],
        options=["--hold", "--mem=100M", "--comment=two words"],
    )
    with contextlib.chdir(folder), mock.patch.dict(os.environ, harness.env | cluster.env):
        planned = load_study(study, ["train.steps=2", "launch.on=slurm"], None, None)
        store = Store(folder / "results")
        scheduler.plan_runs(store, "s", planned.runs, planned.all_run_ids)
        launch = LaunchSettings(timed="exclusive", slurm=settings)
        (submission,) = submit(store, "s", planned.runs, launch.job_settings(), print)
    harness.variant("mine", "raise ValueError('edited')")
    cluster.call("scontrol", "release", str(submission.job))
    cluster.wait_until_empty()
    run = store.run("s", planned.runs[0].run_id)
    log = store.element_log("s", submission, 0).read_text()
    assert run.status.status == "done", log + "\n".join(run.log_tail(40))
    assert run.status.job == f"{submission.job}_0"
    assert run.code_hash == planned.runs[0].code_hash
    assert run.env.timing == "exclusive"
