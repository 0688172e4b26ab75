"""Without these, a run would be stored under code or data that it was not computed with."""

import hashlib
import os
import time
from pathlib import Path

import pytest
from untrained_study import UntrainedStudy

from harness.errors import UserError
from harness.provenance import present_code
from harness.provenance.archive import archive_code
from harness.provenance.contents import content_hash, shipped_contents
from harness.provenance.present_code import PresentCode
from harness.provenance.sources import Sources
from harness.results.run import Run

HELPERS = {
    "positional/_near.py": "from positional._near import FACTOR",
    "helper.py": "from helper import FACTOR",
    "positional/_relative.py": "from ._relative import FACTOR",
    "lib/deep/inner.py": "from lib.deep.inner import FACTOR",
    "../beside.py": "from beside import FACTOR",
    "table.json": 'FACTOR = "table.json"',
}


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.fsync", lambda fd: None)
    return UntrainedStudy(tmp_path)


def planned_run(study) -> Run:
    """Plan the study as `run` does; return the run of the user's variant."""
    planned = study.plan()
    archive_code(study.store.archive("s"), planned.codes())
    for spec in planned.runs:
        study.store.run("s", spec.run_id).create(spec)
    return study.entry("ours-mha-single")


@pytest.mark.parametrize("helper", HELPERS)
def test_an_edited_variant_or_helper_fails_by_its_name(helper, study):
    file = study.folder / "mine" / helper
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("FACTOR = 1\n" if file.suffix == ".py" else "[1]")
    text = study.variant.read_text()
    import_line = HELPERS[helper]
    study.variant.write_text(
        text.replace("class Ours", f"def late():\n    {import_line}\n\n\nclass Ours")
    )
    run = planned_run(study)
    code = PresentCode(run, shipped_contents())
    for edited in (file, study.variant):
        earlier = edited.read_text()
        edited.write_text(earlier.replace("1", "2"))
        for check in (code.check, lambda: PresentCode(run)):
            with pytest.raises(UserError, match=rf"{edited.name}: has changed since the run"):
                check()
        edited.write_text(earlier)
        code.check()
    file.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        PresentCode(run)


def test_an_edit_of_the_harness_fails_whenever_it_happens(study, monkeypatch, tmp_path):
    """Before the code is loaded, between that and the plan, and after the plan."""
    name = "harness/training/step.py"
    loaded = shipped_contents()
    run = planned_run(study)
    PresentCode(run, loaded)
    with pytest.raises(UserError, match=r"step\.py: has changed"):
        PresentCode(run, loaded | {name: "of an edited file"})
    edited = tmp_path / "step.py"
    edited.write_text(Path(present_code.ROOT / name).read_text() + "x = 1\n")
    original = present_code.named_file
    monkeypatch.setattr(
        present_code, "named_file", lambda root, n, p: edited if n == name else original(root, n, p)
    )
    with pytest.raises(UserError, match=r"step\.py: has changed"):
        PresentCode(run, loaded)


def test_a_comment_changes_nothing(study):
    run = planned_run(study)
    code = PresentCode(run)
    study.edit("factor = 1", "factor = (1)  # one")
    code.check()
    PresentCode(run)


def test_code_that_is_not_archived_is_checked_by_its_hash(study):
    run = planned_run(study)
    run.archive._manifest(run.spec.code_hash).unlink()
    PresentCode(run)
    study.edit()
    with pytest.raises(UserError, match="its code: has changed"):
        PresentCode(run)


def test_a_replaced_file_of_equal_size_and_time_is_read_again(study):
    """Such as one that is restored by a copy which keeps the times."""
    run = planned_run(study)
    status = study.variant.stat()
    other = study.folder / "other.py"
    other.write_text(study.variant.read_text().replace("= 1", "= 2"))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(study.variant)
    assert study.variant.stat().st_size == status.st_size
    assert Sources().code(run.spec).hash != run.spec.code_hash


def test_the_check_takes_milliseconds(study):
    """It reads the files and parses none: that would take a third of a second on each rank."""
    run = planned_run(study)
    loaded = shipped_contents()
    names = set(run.archive.code(run.spec.code_hash).files)
    assert {name for name in names if not name.startswith("user/")} <= loaded.keys()
    assert loaded["variants/base.py"] == content_hash(present_code.ROOT / "variants/base.py")

    def best(function):
        times = []
        for _ in range(5):
            started = time.thread_time()
            function()
            times.append(time.thread_time() - started)
        return min(times)

    def read():
        return [hashlib.sha256((present_code.ROOT / n).read_bytes()).digest() for n in loaded]

    assert best(lambda: PresentCode(run, loaded)) < 5 * best(read)
