"""A crash in the middle of a write loses no result, and a damaged file is named."""

import math
import os
from types import SimpleNamespace

import pytest
from synthetic_results import step_record

from harness.errors import StoreError
from harness.results.files import (
    JsonLinesWriter,
    read_json,
    read_lines,
    read_record,
    remove_temporaries,
    write_bytes,
    write_json,
    write_text,
)
from harness.results.records import (
    RunSpec,
    StepRecord,
)

# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("breaking", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, breaking):
    """A full disk at the wrong moment must not take what was there before."""
    path = tmp_path / "status.json"
    write_text(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, breaking, fail)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]


def test_new_content_is_on_disk_before_it_replaces_the_old(tmp_path, monkeypatch):
    """The other order leaves an empty file after a power cut, on common file systems."""
    events, path = [], tmp_path / "file"
    fsync, replace = os.fsync, os.replace

    def see_fsync(fd):
        events.append(("fsync", os.fstat(fd).st_size))
        fsync(fd)

    def see_replace(source, target):
        events.append(("replace", target))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", see_fsync)
    monkeypatch.setattr(os, "replace", see_replace)
    write_bytes(path, b"12345")
    assert events == [("fsync", 5), ("replace", path)]
    assert path.read_bytes() == b"12345"


def test_what_is_not_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert read_json(tmp_path / "a.json") == {"x": 1}


def test_folders_are_made_on_the_way(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "é")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == "é".encode()


def test_numbers_keep_every_digit_and_what_is_no_number_is_null(tmp_path):
    """Rounded numbers are wrong; a bare NaN is unreadable for every other JSON reader."""
    path, value = tmp_path / "a.json", 0.1 + 0.2
    write_json(path, {"x": value, "nan": math.nan, "deep": [{"inf": -math.inf}, (1, math.nan)]})
    assert read_json(path) == {"x": value, "nan": None, "deep": [{"inf": None}, [1, None]]}
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()


@pytest.mark.parametrize("text", ["", "{", "not json", '{"a": 1}}'])
def test_an_unreadable_file_is_named_with_the_remedy(tmp_path, text):
    path = tmp_path / "spec.json"
    path.write_text(text)
    with pytest.raises(
        StoreError, match=r"spec\.json: unreadable .* remove its folder to run that entry again"
    ):
        read_json(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"gone\.json: unreadable"):
        read_json(tmp_path / "gone.json")


@pytest.mark.parametrize("version", [0, 4, "1", None])
def test_another_schema_version_is_refused_by_name(tmp_path, version):
    """Read as if it were this version's, a file's numbers would mean something else."""
    write_json(tmp_path / "spec.json", {"schema_version": version})
    with pytest.raises(
        StoreError, match=rf"spec\.json: schema_version {version}, this version reads 1 to 3"
    ):
        read_record(tmp_path / "spec.json", RunSpec)


# -- lines ----------------------------------------------------------------------------------------


def test_a_line_is_there_at_once(tmp_path):
    """What a killed process had measured is kept."""
    lines = JsonLinesWriter(tmp_path / "a.jsonl")
    lines.append(step_record(0))
    assert read_lines(tmp_path / "a.jsonl", StepRecord) == [step_record(0)]
    lines.append(step_record(1, loss=math.nan))
    assert read_lines(tmp_path / "a.jsonl", StepRecord) == [
        step_record(0),
        step_record(1, loss=None),
    ]
    lines.close()


@pytest.mark.parametrize("torn", ["{", '{"step": 2', step_record(2).model_dump_json()])
def test_a_torn_last_line_is_passed_over(tmp_path, torn):
    """A machine that dies while it writes costs one step and not the run."""
    path = tmp_path / "a.jsonl"
    path.write_text(
        f"{step_record(0).model_dump_json()}\n{step_record(1).model_dump_json()}\n{torn}"
    )
    assert [record.step for record in read_lines(path, StepRecord)] == [0, 1]


@pytest.mark.parametrize("torn", ["{", '{"step": 2', step_record(2).model_dump_json()])
def test_lines_after_a_torn_one_are_read(tmp_path, torn):
    """The next launch of a study whose launcher crashed appends to the same file."""
    path = tmp_path / "a.jsonl"
    path.write_text(f"{step_record(0).model_dump_json()}\n{torn}")
    for step in (3, 4):
        lines = JsonLinesWriter(path)
        lines.append(step_record(step))
        lines.close()
    assert [record.step for record in read_lines(path, StepRecord)] == [0, 3, 4]


def test_a_line_that_another_process_writes_is_not_torn(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    line = f"{step_record(0).model_dump_json()}\n"
    path.write_text(line[:9])
    clock = SimpleNamespace(sleep=lambda _: path.write_text(line))
    monkeypatch.setattr("harness.results.files.time", clock)
    lines = JsonLinesWriter(path)
    lines.append(step_record(1))
    lines.close()
    assert [record.step for record in read_lines(path, StepRecord)] == [0, 1]


def test_no_file_has_no_lines(tmp_path):
    assert read_lines(tmp_path / "none.jsonl", StepRecord) == []


LEFT = ".x.json.0123456789abcdef.tmp"


def test_only_temporary_files_that_a_crash_left_are_removed(tmp_path):
    kept = ("x.json", ".x.json.tmp", "..tmp", ".y.json.0123456789abcdef.tmp")
    for name in (*kept, LEFT):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".z.0123456789abcdef.tmp").symlink_to("x.json")
    os.utime(tmp_path / kept[-1])  # its writer lives
    remove_temporaries(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*kept, ".z.0123456789abcdef.tmp"}
    remove_temporaries(tmp_path / "missing")


def test_a_writer_whose_temporary_file_was_removed_writes_it_again(tmp_path, monkeypatch):
    def remove_all(fd):
        monkeypatch.undo()
        for path in tmp_path.glob(".*.tmp"):
            path.unlink()

    monkeypatch.setattr("os.fsync", remove_all)
    write_bytes(tmp_path / "x.json", b"content")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"content"]
