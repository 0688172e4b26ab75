"""Without these, one run whose files are removed or damaged would end a whole study."""

import shutil

import pytest
from untrained_study import UntrainedStudy

FIRST = "learned-mha-single"
SECOND = "ours-mha-single"


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.fsync", lambda fd: None)
    return UntrainedStudy(tmp_path)


def damage(run, how):
    if how == "removed":
        shutil.rmtree(run.path)
    elif how == "damaged spec":
        (run.path / "spec.json").write_text("{")
    else:
        (run.path / "status.json").write_text("{")


def in_order(study):
    planned = study.plan()
    planned.runs.sort(key=lambda spec: spec.entry)
    planned.runs[1:] = [spec.model_copy(update={"seed": 1}) for spec in planned.runs[1:]]
    return planned


@pytest.mark.parametrize("how", ["removed", "damaged"])
def test_a_run_that_is_damaged_while_it_trains_fails_alone(how, study, capsys):
    def start(run, launch):
        if run.spec.entry == FIRST:
            run.mark_running()
            damage(run, how)
            run.finish("done")
        study.start(run, launch)

    assert study.run(in_order(study), start) == [SECOND]
    printed = " ".join(capsys.readouterr().err.split())
    assert "removed or damaged while it trained" in printed and "UNREADABLE" in printed
    assert study.entry(SECOND).status.status == "done"


@pytest.mark.parametrize("how", ["removed", "damaged", "damaged spec"])
def test_a_run_that_is_damaged_before_it_starts_changes_no_other(how, study, capsys):
    waiting = next(spec for spec in study.plan().runs if spec.entry == SECOND)

    def start(run, launch):
        study.start(run, launch)
        if run.run_id != waiting.run_id:
            damage(study.store.run("s", waiting.run_id), how)

    started = study.run(in_order(study), start)
    printed = capsys.readouterr().err
    if how == "damaged":
        assert started == [FIRST] and "removed or damaged" in printed
    else:  # all that a start needs is in the study file
        assert started == [FIRST, SECOND]


@pytest.mark.parametrize("how", ["damaged", "damaged spec"])
def test_a_damaged_run_is_skipped_with_the_reason(how, study):
    study.run()
    damage(study.entry(SECOND), how)
    selection = study.select()
    assert len(selection.done) == 1
    (note,) = selection.notes()
    file = "status.json" if how == "damaged" else "spec.json"
    assert "skipped" in note and f"{file}: unreadable" in note


def test_a_damaged_run_outside_of_the_study_does_not_matter(study):
    study.run()
    other = study.store.run("s", "another-run")
    other.path.mkdir()
    (other.path / "status.json").write_text("{")
    study.edit()
    assert study.run() == [SECOND]
