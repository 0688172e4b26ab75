"""Without these, `reproduce` could write something else than was run."""

import shlex

import pytest
from untrained_study import UntrainedStudy

from harness.analysis import dataset
from harness.analysis.summary import summarize
from harness.config import load
from harness.errors import UserError
from harness.provenance.reproduce import find_reproduction
from harness.report.document import CodeBlock
from harness.report.sections import runs
from harness.results.files import read_json, write_json
from harness.results.store import Store


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ABLATIONS_DATA", "/some where")
    monkeypatch.setattr("os.fsync", lambda fd: None)
    return UntrainedStudy(tmp_path / "it's mine")


def set_in(study, old, new):
    path = study.folder / "study.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_study_variants_packages_and_command_are_written(study, tmp_path):
    study.run()
    written = study.variant.read_text()
    text = (study.folder / "study.toml").read_text()
    study.edit()
    set_in(study, "n_layer = 1", "n_layer = 2")
    folder = tmp_path / "again"
    reproduction = find_reproduction(study.store, "s")
    reproduction.write(folder)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"study.toml", "packages.txt", "run.sh", "user/mine/positional/ours.py"}
    assert (folder / "study.toml").read_text() == text
    assert (folder / "user/mine/positional/ours.py").read_text() == written
    assert "torch==" in (folder / "packages.txt").read_text()
    script = (folder / "run.sh").read_text()
    assert "export ABLATIONS_DATA='/some where'" in script
    corpus = str(study.folder / "text.txt").replace("'", "'\"'\"'")
    assert f"'data.corpus=\"{corpus}\"'" in script
    assert "'study.variant_paths=[\"user/mine\"]'" in script
    assert list(reproduction.differences()) == []


def test_the_written_study_has_the_same_runs(study, tmp_path):
    study.run()
    folder = tmp_path / "again"
    find_reproduction(study.store, "s").write(folder)
    settings = [
        'study.variant_paths=["user/mine"]',
        f'data.corpus="{study.folder / "text.txt"}"',
    ]
    planned = load(folder / "study.toml", settings)
    stored = study.store.specs("s")
    assert planned.all_run_ids == {spec.run_id for spec in stored}
    assert {spec.code_hash for spec in planned.runs} == {spec.code_hash for spec in stored}


def test_two_versions_of_a_file_need_a_choice(study, tmp_path):
    set_in(study, "seeds = [0]", "seeds = [0, 1]")
    planned = study.plan()
    first, second = (spec for spec in planned.runs if "ours" in spec.entry)
    study.run(planned.only(first.run_id))
    study.edit()
    study.run(study.plan().only(second.run_id))
    with pytest.raises(UserError, match=r"ours\.py; choose one of them with --run") as error:
        find_reproduction(study.store, "s")
    assert first.run_id in str(error.value) and second.run_id in str(error.value)
    for run_id, factor in ((first.run_id, "factor = 1\n"), (second.run_id, "factor = 10\n")):
        reproduction = find_reproduction(study.store, "s", run_id)
        reproduction.write(tmp_path / run_id)
        assert factor in (tmp_path / run_id / "user/mine/positional/ours.py").read_text()
        assert f"--run {run_id}" in (tmp_path / run_id / "run.sh").read_text()


def test_what_differs_from_the_recorded_harness_is_named(study, tmp_path):
    study.run()
    reproduction = find_reproduction(study.store, "s")
    name = "harness/model/gpt.py"
    file = reproduction.files[name].model_copy(update={"syntax_sha256": "other"})
    reproduction.files[name] = file
    packages = reproduction.archive.add(b"torch==0.1\n", ".txt")
    launch = reproduction.launch.model_copy(update={"git_commit": "abc", "packages": packages})
    object.__setattr__(reproduction, "launch", launch)
    lines = "\n".join(reproduction.differences())
    assert name in lines and "recorded abc" in lines and "torch==0.1" in lines
    reproduction.write(tmp_path / "again")
    assert (tmp_path / "again/recorded" / name).read_bytes().startswith(b'"""')


def test_a_folder_that_is_not_empty_is_refused(study, tmp_path):
    study.run()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not empty"):
        find_reproduction(study.store, "s").write(tmp_path)


def test_what_was_not_recorded_is_named(study):
    study.run()
    run_id = study.store.runs("s")[0].run_id
    with pytest.raises(UserError, match="other: no such run"):
        find_reproduction(study.store, "s", "other")
    launches = study.folder / "results/s/launches.jsonl"
    launches.unlink()
    with pytest.raises(UserError, match=f"the inputs of {run_id} were not recorded"):
        find_reproduction(study.store, "s", run_id)


def test_a_damaged_archive_is_named(study):
    study.run()
    spec = study.store.specs("s")[0]
    manifest = study.folder / f"results/s/archive/code/{spec.code_hash}.json"
    write_json(manifest, read_json(manifest) | {"files": 1})
    with pytest.raises(UserError, match=f"{spec.run_id}: its code is not archived"):
        find_reproduction(Store(study.folder / "results"), "s", spec.run_id)


def test_the_report_shows_the_command(study):
    study.outcome = ("failed", "error")
    study.run()
    summary = summarize(dataset.read(study.store, "s"), "now")
    blocks = [block for block in runs.launches(summary, {}) if isinstance(block, CodeBlock)]
    folder = shlex.quote(str(study.folder / "results/s"))
    assert blocks[-1].text == f"python -m harness reproduce {folder} DIR"


def test_equal_files_are_archived_once(study):
    """A study of 54 runs and many launches keeps one copy of each file of code."""
    study.run()
    files = set((study.folder / "results/s/archive/files").iterdir())
    study.run()
    study.edit()
    study.run()
    assert len(set((study.folder / "results/s/archive/files").iterdir()) - files) == 1
