"""Without these, results of older code would count as those of the present code, or be lost."""

import subprocess
import sys

import pytest
from untrained_study import OURS_FILE, UntrainedStudy

from harness.analysis import dataset
from harness.analysis.outdated import caveats
from harness.launch import scheduler
from harness.launch.one_run import run_claimed
from harness.launch.progress import ProgressReporter
from harness.provenance import outdated
from harness.results.run import Run


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.fsync", lambda fd: None)
    return UntrainedStudy(tmp_path)


BOTH = ["learned-mha-single", "ours-mha-single"]


def test_a_comment_trains_nothing_again(study):
    assert sorted(study.run()) == BOTH
    study.edit("factor = 1", "factor = (1)  # one")
    assert study.run() == [] and study.select().changes == {}


@pytest.mark.parametrize("outcome", [("done", None), ("failed", "error"), ("failed", "killed")])
def test_an_edit_trains_exactly_the_runs_of_that_code_again(outcome, study, capsys):
    study.outcome = outcome
    study.run()
    earlier = study.entry("ours-mha-single")
    earlier_hash = earlier.spec.code_hash
    study.edit()
    (change,) = study.select().changes.values()
    assert change.files == (OURS_FILE,)
    assert "1 outdated: user/mine/positional/ours.py changed" in study.select().notes()
    study.outcome = ("done", None)
    assert study.run() == ["ours-mha-single"] and study.resumed == []
    kept = Run(study.folder / f"results/s/.outdated/{earlier.run_id}-{earlier_hash}")
    assert kept.spec.code_hash == earlier_hash and kept.status.status == outcome[0]
    assert str(kept.path) in capsys.readouterr().err
    assert study.entry("ours-mha-single").spec.code_hash != earlier_hash
    assert len(study.store.runs("s")) == 2


def test_each_earlier_result_is_kept(study):
    study.run()
    for old, new in (("1", "2"), ("2", "1"), ("1", "2"), ("2", "1")):
        study.edit(f"factor = {old}", f"factor = {new}")
        study.run()
    assert len(list((study.folder / "results/s/.outdated").iterdir())) == 4


def test_an_interrupted_run_of_other_code_restarts(study):
    study.outcome = ("interrupted", "killed")
    study.run()
    assert study.run() and sorted(study.resumed) == BOTH
    study.edit()
    assert sorted(study.run()) == BOTH
    assert study.resumed == ["learned-mha-single"]


def test_a_pending_run_gets_the_present_code(study):
    planned = study.plan()
    scheduler.plan_runs(study.store, "s", planned.runs, planned.all_run_ids)
    study.edit()
    present = {spec.run_id: spec.code_hash for spec in study.plan().runs}
    assert study.select().changes == {} and len(study.run()) == 2
    assert {run.run_id: run.spec.code_hash for run in study.store.runs("s")} == present
    assert not (study.folder / "results/s/.outdated").exists()


def test_code_edited_during_a_launch_starts_no_run_with_it(study, capsys):
    """The processes that train are forked from one that has loaded the older code."""

    def edit_at_start(run, launch):
        study.start(run, launch)
        if "factor = 10" not in study.variant.read_text():
            study.edit()

    planned = study.plan()
    planned.runs.sort(key=lambda spec: spec.entry)
    planned.runs[1:] = [spec.model_copy(update={"seed": 1}) for spec in planned.runs[1:]]
    assert study.run(planned, edit_at_start) == ["learned-mha-single"]
    assert "not started: user/mine/positional/ours.py changed since" in capsys.readouterr().err
    assert study.entry("ours-mha-single").status.status == "pending"
    assert study.run() == ["ours-mha-single"]


def test_retrying_failed_runs_trains_no_outdated_result_again(study):
    study.run()
    study.edit()
    assert study.select(retry_failed=True).todo == []
    study.entry("ours-mha-single").finish("failed", "nan", "x")
    assert len(study.select(retry_failed=True).todo) == 1


def test_a_run_lost_with_its_host_resumes_with_every_run(study):
    """A lost peer or node is no failure of the run; other failures are retried on request."""
    study.run()
    lost, other = (study.entry(f"{name}-mha-single") for name in ("ours", "learned"))
    lost.finish("failed", "lost", "node-2 does not answer")
    other.finish("failed", "timeout", "x")
    assert [spec.run_id for spec in study.select().todo] == [lost.run_id]
    retried = study.select(retry_failed=True).todo
    assert {spec.run_id for spec in retried} == {lost.run_id, other.run_id}
    assert study.run() == study.resumed == ["ours-mha-single"]


def test_an_accepted_result_counts_until_the_next_edit(study):
    study.run()
    study.edit()
    planned = study.plan()
    accepted = outdated.acceptable(study.store, "s", study.changes(planned))
    assert list(accepted) == [study.entry("ours-mha-single").run_id]
    (spec,) = (spec for spec in planned.runs if spec.run_id in accepted)
    study.store.run("s", spec.run_id).accept(spec)
    assert len(study.select().done) == 2 and study.run() == []
    assert study.changes(study.plan()) == accepted
    study.edit("factor = 10", "factor = 3")
    assert study.run() == ["ours-mha-single"]
    assert study.entry("ours-mha-single").status.accepted_code_hash is None


def test_an_interrupted_run_is_never_accepted(study):
    study.outcome = ("interrupted", "killed")
    study.run()
    study.edit()
    assert outdated.acceptable(study.store, "s", study.changes(study.plan())) == {}


def test_a_run_of_unknown_code_is_not_outdated(study):
    """A run of an earlier version has no code hash."""
    study.run()
    run = study.entry("ours-mha-single")
    run.update_spec(run.spec.model_copy(update={"code_hash": None}))
    study.edit()
    assert len(study.select().done) == 2 and study.run() == []


def test_a_run_whose_source_is_outdated_is_outdated(study):
    text = (study.folder / "study.toml").read_text()
    init = '\n[init]\nfrom_run = { positional = "ours" }\n'
    axes = text.replace('["learned", "ours"]', '["learned"]')
    (study.folder / "study.toml").write_text(axes + init)
    assert study.run() == ["start-ours-mha-single", "learned-mha-single"]
    study.edit()
    changes = study.select().changes
    assert [change.files for change in changes.values()] == [(OURS_FILE,)] * 2
    study.outcome = ("interrupted", "killed")
    assert study.run() == ["start-ours-mha-single"]  # of two, as the other waits for it
    study.outcome = ("done", None)
    assert study.run() == ["start-ours-mha-single", "learned-mha-single"]
    assert study.run() == []


def test_a_result_of_another_process_is_not_computed_again(study):
    """Two harnesses that share a results folder both see the outdated run."""
    study.run()
    study.edit()

    planned = study.plan()
    todo = study.select(planned).todo
    before = {spec.run_id: study.store.run("s", spec.run_id).status for spec in todo}
    study.run()
    n_kept = len(list((study.folder / "results/s/.outdated").iterdir()))
    run = study.store.run("s", todo[0].run_id)
    claim = run.claim()
    assert claim is not None
    with ProgressReporter(todo) as progress:
        run_claimed(study.store, todo[0], claim, study.start, progress, before[run.run_id])
    assert len(list((study.folder / "results/s/.outdated").iterdir())) == n_kept


def test_status_names_the_runs_and_what_has_changed(study):
    study.run()
    study.edit()
    command = [sys.executable, "-m", "harness", "status"]
    printed = subprocess.run(command, cwd=study.folder, capture_output=True, text=True, check=True)
    run_id = study.entry("ours-mha-single").run_id
    assert "s: 2 runs: 1 done, 1 outdated" in printed.stdout
    assert f"{run_id}: done, outdated: {OURS_FILE} changed" in printed.stdout


def test_status_counts_runs_of_unknown_code(study):
    study.run()
    run = study.entry("ours-mha-single")
    run.update_spec(run.spec.model_copy(update={"code_hash": None}))
    command = [sys.executable, "-m", "harness", "status"]
    printed = subprocess.run(command, cwd=study.folder, capture_output=True, text=True, check=True)
    assert "without a record of their code: 1" in printed.stdout


@pytest.mark.parametrize("is_accepted", [False, True])
def test_the_report_marks_results_of_older_code(study, is_accepted):
    study.run()
    study.edit()
    for spec in study.plan().runs if is_accepted else ():
        study.store.run("s", spec.run_id).accept(spec)
    for run in study.store.runs("s"):
        run.finish("failed", "nan", "a result needs no training here")
    found = list(caveats(dataset.read(study.store, "s")))
    assert [(caveat.kind, caveat.entry) for caveat in found] == [("outdated", "ours-mha-single")]
    assert f"{OURS_FILE} changed" in found[0].message
    assert ("kept by --accept-outdated" in found[0].message) == is_accepted


def test_a_worker_records_the_code_that_it_runs_with(study):
    """A job may start long after its spec was written; files of the older code are dropped."""
    study.outcome = ("interrupted", "killed")
    study.run()
    run = study.entry("ours-mha-single")
    run.mark_running(run.spec.code_hash)
    assert (run.path / "eval.jsonl").exists()
    run.mark_running("other")
    assert Run(run.path).spec.code_hash == "other" and not (run.path / "eval.jsonl").exists()
