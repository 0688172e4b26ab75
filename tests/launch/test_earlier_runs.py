"""Without these, a launch would stop at an earlier run, or compute or describe it wrongly."""

import pytest
from untrained_study import UntrainedStudy

from harness.analysis import dataset
from harness.provenance import outdated
from harness.provenance.archive import archive_code
from harness.provenance.sources import Sources
from harness.results import run as run_module
from harness.results.run import Run

DEPENDENT = "learned-mha-single"
SOURCE = "start-ours-mha-single"
FROM_OURS = '["learned"]\n[init]\nfrom_run = { positional = "ours" }'


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.fsync", lambda fd: None)
    return UntrainedStudy(tmp_path / "study")


def set_in(study, old, new):
    file = study.folder / "study.toml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_a_damaged_spec_does_not_stop_the_other_runs(study):
    study.outcome = ("interrupted", "killed")
    study.run()
    damaged = study.entry(DEPENDENT)
    (damaged.path / "spec.json").write_text("{")
    assert sorted(study.run()) == [DEPENDENT, "ours-mha-single"]
    assert study.resumed == ["ours-mha-single"]
    assert (study.folder / f"results/s/.outdated/{damaged.run_id}-unknown").is_dir()


def test_a_run_that_ends_before_the_launch_begins_is_not_computed_again(study):
    """Another harness has trained the outdated run after this one selected it."""
    study.run()
    study.edit()
    todo = study.select().todo
    study.run()
    started = study.entry("ours-mha-single").status.started_at
    study.run_all(todo)
    assert study.entry("ours-mha-single").status.started_at == started


def test_a_run_starts_from_a_run_of_a_study_that_has_moved(study):
    set_in(study, '["learned", "ours"]', FROM_OURS)
    planned = study.plan()
    source = next(spec.run_id for spec in planned.runs if spec.entry == SOURCE)
    assert study.run(planned.only(source)) == [SOURCE]
    (study.folder / "moved").mkdir()
    (study.folder / "mine").rename(study.folder / "moved/mine")
    set_in(study, '"mine"', '"moved/mine"')
    assert study.run() == [DEPENDENT]


def test_results_without_the_users_variants_are_not_outdated(study):
    """Results are copied to another machine to write their report there."""
    study.run()
    specs = study.store.specs("s")
    (study.folder / "mine").rename(study.folder / "elsewhere")
    assert outdated.find_changes(study.store, "s", specs, Sources()) == {}


def test_a_run_whose_source_cannot_be_read_is_not_outdated(study):
    set_in(study, '["learned", "ours"]', FROM_OURS)
    study.run()
    specs = study.store.specs("s")
    (study.entry(SOURCE).path / "spec.json").write_text("{")
    assert len(study.store.specs("s")) == 1
    readable = [spec for spec in specs if spec.entry == DEPENDENT]
    assert outdated.find_changes(study.store, "s", readable, Sources()) == {}


def test_a_report_of_one_commit_knows_the_source_runs_of_others(study):
    set_in(study, '["learned", "ours"]', FROM_OURS)
    study.run()
    for run in study.store.runs("s"):
        run.finish("failed", "nan", "a result needs no training here")
    found = dataset.read(study.store, "s", lambda run: run.spec.entry == DEPENDENT)
    assert found.changes == {}
    study.edit()
    found = dataset.read(study.store, "s", lambda run: run.spec.entry == DEPENDENT)
    assert study.entry(DEPENDENT).run_id in found.changes


def test_a_retried_run_does_not_start_from_an_outdated_run(study, capsys):
    """Its weights would be those of older code, and its hash that of the newer."""
    set_in(study, '["learned", "ours"]', FROM_OURS)
    study.run()
    study.entry(DEPENDENT).finish("failed", "nan", "x")
    study.edit()
    selection = study.select(retry_failed=True)
    assert [spec.entry for spec in selection.todo] == [DEPENDENT]
    assert list(selection.changes) == [study.entry(DEPENDENT).run_id]
    started = study.entry(DEPENDENT).status.started_at
    study.run_all(selection.todo)
    printed = capsys.readouterr().err
    assert "starts from an outdated run (user/mine/positional/ours.py changed)" in printed
    assert study.entry(DEPENDENT).status.started_at == started
    assert study.run() == [SOURCE, DEPENDENT]


def test_code_that_was_edited_after_its_hash_is_not_archived(study):
    """`reproduce` would write the newer code as that of the older hash."""
    planned = study.plan()
    codes = {spec.entry: spec.code_hash for spec in planned.runs}
    archive = study.store.archive("s")
    study.edit()
    archive_code(archive, planned.codes())
    assert archive.has_code(codes[DEPENDENT]) and not archive.has_code(codes["ours-mha-single"])


def test_files_of_older_code_never_get_the_newer_hash(study, monkeypatch):
    """A worker that is killed here would resume from a state of other code."""
    study.outcome = ("interrupted", "killed")
    study.run()
    run = study.entry(DEPENDENT)

    def crash(*_):
        raise RuntimeError("crash")

    monkeypatch.setattr(run_module, "write_json", crash)
    with pytest.raises(RuntimeError, match="crash"):
        run.mark_running("other")
    assert not (run.path / "eval.jsonl").exists()
    assert Run(run.path).spec.code_hash != "other"
