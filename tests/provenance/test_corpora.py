"""Without these, a study would seem to have lost its runs when its text is edited."""

import os
import subprocess
import sys

import numpy as np
import pytest
from untrained_study import UntrainedStudy

from harness.provenance.corpora import changed_corpora, replaced_corpora

TEXT = "To be, or not to be.\n" * 40


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.fsync", lambda fd: None)
    return UntrainedStudy(tmp_path)


def set_corpus(study, name):
    path = study.folder / "study.toml"
    path.write_text(path.read_text().replace('"text.txt"', f'"{name}"'))


def changed(study):
    return changed_corpora((run.spec, run.status) for run in study.store.runs("s"))


def write_tokens(path, value):
    tokens = np.full(600, value, np.uint16)
    tokens.tofile(path)


def test_an_edited_text_gives_new_runs_and_is_named(study):
    study.run()
    before = study.plan().all_run_ids
    assert replaced_corpora(study.store, "s", study.plan().runs) == []
    assert changed(study) == {}
    (study.folder / "text.txt").write_text(TEXT + "!")
    planned = study.plan()
    assert not planned.all_run_ids & before
    (line,) = replaced_corpora(study.store, "s", planned.runs)
    assert line.startswith("the corpus text.txt has changed since 2 runs")
    assert changed(study) == {"text.txt": 2}
    assert len(study.run()) == 2
    assert changed(study) == {"text.txt": 2}


def test_a_touched_text_has_not_changed(study):
    study.run()
    (study.folder / "text.txt").write_text(TEXT)
    os.utime(study.folder / "text.txt")
    assert changed(study) == {} and study.run() == []


@pytest.mark.parametrize("edited", ["train.bin", "val.bin"])
def test_an_edited_token_file_is_named(study, edited):
    (study.folder / "shards").mkdir()
    write_tokens(study.folder / "shards/train.bin", ord("a"))
    write_tokens(study.folder / "shards/val.bin", ord("b"))
    set_corpus(study, "shards")
    study.run()
    assert changed(study) == {}
    write_tokens(study.folder / "shards" / edited, ord("c"))
    assert changed(study) == {"shards": 2}
    assert "shards has changed" in replaced_corpora(study.store, "s", study.plan().runs)[0]


def test_status_names_the_corpus(study):
    study.run()
    (study.folder / "text.txt").write_text(TEXT + "!")
    command = [sys.executable, "-m", "harness", "status"]
    printed = subprocess.run(command, cwd=study.folder, capture_output=True, text=True, check=True)
    assert "the corpus text.txt has changed since 2 of these runs" in printed.stdout


def test_a_moved_text_is_the_same_corpus(study):
    study.run()
    (study.folder / "text.txt").rename(study.folder / "moved.txt")
    set_corpus(study, "moved.txt")
    assert study.run() == []
    assert changed(study) == {}
