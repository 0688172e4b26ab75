"""Without these, `reproduce` would write a command that trains on other data, or on none."""

import pytest
from untrained_study import UntrainedStudy

from harness.data import corpus
from harness.errors import Problem
from harness.provenance.reproduce import find_reproduction


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.fsync", lambda fd: None)
    return UntrainedStudy(tmp_path / "study")


def script(study, folder):
    find_reproduction(study.store, "s").write(folder)
    return (folder / "run.sh").read_text()


def test_the_fallback_corpus_is_written(study, tmp_path, monkeypatch):
    """The corpus that it replaced may be available where the runs are trained again."""

    def unavailable(place):
        raise corpus.UnavailableError([Problem(place, "no network")])

    monkeypatch.setattr(corpus, "_read_tinyshakespeare", unavailable)
    monkeypatch.setattr(corpus, "SYNTHETIC_BYTES", 4000)
    text = (study.folder / "study.toml").read_text()
    both = 'corpus = "tinyshakespeare"\nfallback_corpus = "synthetic"'
    (study.folder / "study.toml").write_text(text.replace('corpus = "text.txt"', both))
    study.run()
    assert "'data.corpus=\"synthetic\"'" in script(study, tmp_path / "again")


def test_a_relative_folder_of_data_is_found_from_elsewhere(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABLATIONS_DATA", "data")
    study.run()
    assert f"export ABLATIONS_DATA={tmp_path / 'data'}\n" in script(study, tmp_path / "again")
