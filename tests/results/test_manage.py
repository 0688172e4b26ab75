"""`results list`, `remove` and `move`: what is left can be read and reported."""

import shutil

import pytest

from harness import report
from harness.analysis import dataset
from harness.cli import app as cli
from harness.launch.slurm import commands
from harness.launch.slurm.commands import QueueEntry
from harness.results import manage
from harness.results.records import Submission
from harness.results.run import TIMING
from harness.results.store import Store


@pytest.fixture
def call(one_axis, capsys):
    """Return a function that runs a command of `results`: exit code, stdout and stderr."""
    one_axis.outcome = {"learned-gqa2-single-s1": ("failed", "oom", "out of memory")}
    one_axis.write()

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            cli.main(["results", *arguments, "--results", str(one_axis.root)])
        return stop.value.code, *capsys.readouterr()

    return run


def entries(one_axis, name="tiny"):
    return [(e.label, len(e.runs)) for e in dataset.read(one_axis.store, name).entries]


def test_list_shows_each_study(call):
    code, out, _ = call("list")
    assert code == 0 and "tiny: 5 done, 1 failed;" in out and "MiB" in out


SELECTIONS = {
    "failed": (["--status", "failed"], [("learned-mha-single", 3), ("learned-gqa2-single", 2)]),
    "a level": (["--where", "attention=gqa2"], [("learned-mha-single", 3)]),
}


@pytest.mark.parametrize(("options", "left"), SELECTIONS.values(), ids=SELECTIONS)
def test_selected_runs_are_removed_and_others_stay(call, one_axis, options, left):
    for run in one_axis.store.runs("tiny"):
        shutil.copytree(run.path, run.timing_run.path)
    code, out, _ = call("remove", "tiny", *options, "--yes")
    assert code == 0 and "learned-gqa2-single-s1" in out
    assert entries(one_axis) == left
    kept = {run.run_id for run in one_axis.store.runs("tiny")}
    timing_runs = one_axis.root / "tiny" / TIMING
    assert {path.name for path in timing_runs.iterdir()} == kept
    assert one_axis.store.launches("tiny")


def test_without_a_yes_no_run_is_removed(call, one_axis):
    before = entries(one_axis)
    code, out, _ = call("remove", "tiny", "--status", "failed")
    assert code != 0 and "learned-gqa2-single-s1" in out  # no terminal answers
    assert entries(one_axis) == before


def test_a_whole_study_is_removed_and_its_neighbours_stay(call, one_axis):
    (one_axis.root / "other").mkdir()
    assert call("remove", "tiny", "--yes")[0] == 0
    assert [path.name for path in one_axis.root.iterdir()] == ["other"]


def test_running_runs_are_not_removed(call, one_axis):
    run = one_axis.store.runs("tiny")[0]
    lock = run.claim()
    code, _, err = call("remove", "tiny", "--yes")
    lock.release()
    assert code == 2 and f"{run.path}: is running" in err
    assert len(one_axis.store.runs("tiny")) == 6


ACTIONS = {
    "remove a study": ["remove", "tiny", "--yes"],
    "remove runs": ["remove", "tiny", "--where", "attention=gqa2", "--yes"],
    "rename": ["move", "tiny", "first"],
    "move": ["move", "tiny", "--to", "{root}/old"],
}


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_runs_in_slurms_queue_stay(call, one_axis, monkeypatch, action):
    run = one_axis.store.runs("tiny")[0]
    (run.path / "status.json").write_text('{"status": "pending", "schema_version": 3}')
    submission = Submission(id="7", job="7", name="n", elements=[[run.run_id]])
    one_axis.store.record_submission("tiny", submission)
    waiting = QueueEntry("7_0", "7", 0, "n", "PENDING", "", "")
    monkeypatch.setattr(commands, "squeue", lambda names: [waiting])
    arguments = [text.format(root=one_axis.root) for text in action]
    code, _, err = call(*arguments)
    assert code == 2 and f"{run.path}: is in the queue" in err
    assert len(one_axis.store.runs("tiny")) == 6
    claim = one_axis.store.claim_submitting("tiny")
    monkeypatch.setattr(commands, "squeue", lambda names: [])
    assert call(*arguments)[0] == 2  # another process may submit runs now
    claim.release()
    assert call(*arguments)[0] == 0
    assert not run.path.exists()


def test_an_interrupted_removal_leaves_no_half_run(call, one_axis, monkeypatch):
    run = one_axis.store.runs("tiny")[0]

    def interrupt(path, ignore_errors=False):
        if path.exists():
            (path / "spec.json").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", interrupt)
    with pytest.raises(KeyboardInterrupt):
        manage.remove_runs([run])
    study = dataset.read(one_axis.store, "tiny")
    assert len(study.runs) == 5 and not study.unreadable


def test_a_renamed_study_is_read_under_its_new_name(call, one_axis, tmp_path, no_figures):
    before = entries(one_axis)
    assert call("move", "tiny", "first")[0] == 0
    assert one_axis.store.studies() == ["first"] and entries(one_axis, "first") == before
    assert {spec.study for spec in one_axis.store.specs("first")} == {"first"}
    assert (report.write(one_axis.store, "first", tmp_path / "out") / "report.md").exists()


def test_an_interrupted_renaming_is_finished_by_the_same_command(call, one_axis):
    (one_axis.root / "tiny").rename(one_axis.root / "first")
    assert call("move", "tiny", "first")[0] == 0
    assert {spec.study for spec in one_axis.store.specs("first")} == {"first"}


def test_a_study_moves_to_another_folder(call, one_axis, tmp_path):
    assert call("move", "tiny", "--to", str(tmp_path / "old"))[0] == 0
    assert len(Store(tmp_path / "old").runs("tiny")) == 6 and not one_axis.store.runs("tiny")


TARGETS = {"taken": ["other"], "a path": ["../x"], "none": [], "itself": ["--to", "{study}/old"]}


@pytest.mark.parametrize("arguments", TARGETS.values(), ids=TARGETS)
def test_invalid_targets_are_refused(call, one_axis, arguments):
    (one_axis.root / "other").mkdir()
    study = one_axis.root / "tiny"
    before = sorted(study.rglob("*"))
    assert call("move", "tiny", *(text.format(study=study) for text in arguments))[0] == 2
    assert [path for path in sorted(study.rglob("*")) if ".claims" not in str(path)] == before


def test_a_path_is_no_study_to_remove(call, one_axis):
    elsewhere = Store(one_axis.root.parent / "elsewhere")
    manage.move_to(one_axis.store, "tiny", elsewhere.root)
    for name in ("../elsewhere/tiny", "../elsewhere", ".", "", "tiny/"):
        code, _, err = call("remove", name, "--yes")
        assert code == 2 and "no name of a study" in err
    assert len(elsewhere.runs("tiny")) == 6
