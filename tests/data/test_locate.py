"""A file in the wrong split trains on the validation text, or validates on the training text."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.data import corpus
from harness.data.locate import Patterns, find_files
from harness.errors import UserError
from harness.results.records import DataSettings

PLACE = "study.toml: data.corpus"


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))


def write(folder, *names):
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (np.arange(100) % (20 + i) + 97).astype("<u2").tofile(folder / name)


def find(folder, name, train=None, val=None):
    files = find_files(name, folder, Patterns(train, val), PLACE)
    return [[file.name for file in part] for part in (files.train, files.val, files.unused)]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.bin", "train"),
        ("train_000001.bin", "train"),
        ("fineweb-train-01.bin", "train"),
        ("edu_fineweb_TRAIN000001.bin", "train"),
        ("training.part2.bin", "train"),
        ("val_000000.bin", "val"),
        ("valid.bin", "val"),
        ("openwebtext.validation.bin", None),  # `validation` is a suffix
        ("fineweb_validation-00000-of-00001.bin", "val"),
        ("pretrain_val.bin", "val"),
        ("val_interval.bin", "val"),
        ("train_interval.bin", "train"),
        ("train_evaluation.bin", "train"),
        ("interval.bin", None),
        ("strain.bin", None),
        ("trainer.bin", None),
        ("values.bin", None),
    ],
)
def test_a_whole_part_of_a_name_is_its_split(tmp_path, name, split):
    write(tmp_path / "data", "train.bin", "val.bin", name)
    train, val, unused = find(tmp_path, "data")
    found = {"train": train, "val": val, None: unused}
    assert [key for key, names in found.items() if name in names] == [split]


words = st.sampled_from("train val interval x 01 trainer Train VAL valid 2".split())


@settings(
    deadline=None,
    max_examples=100,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(names=st.sets(st.lists(words, min_size=1, max_size=3).map("_".join), max_size=6))
def test_no_file_is_in_both_splits(tmp_path_factory, names):
    """Each file is in one split or in none, or the folder is refused."""
    folder = tmp_path_factory.mktemp("files")
    write(folder, *(f"{name}.bin" for name in names), "other.bin")
    for name in (str(folder), f"{folder}/*.bin"):
        try:
            parts = find(folder, name)
        except UserError:
            continue
        listed = [file for part in parts for file in part]
        assert sorted(listed) == sorted(file.name for file in folder.iterdir())
        assert parts[0]


def test_patterns_select_the_files_of_a_glob(tmp_path):
    write(tmp_path, *(f"fineweb/fineweb_{name}.bin" for name in ("train_1", "train_2", "val_0")))
    write(tmp_path, "fineweb/other_train_1.bin")
    for name in ("fineweb", "fineweb/*.bin", "*/*.bin", "**/*.bin"):
        found = find(tmp_path, name, "fineweb_train_*.bin", "fineweb_val_*.bin")
        expected = [["fineweb_train_1.bin", "fineweb_train_2.bin"], ["fineweb_val_0.bin"]]
        assert found == [*expected, ["other_train_1.bin"]]
    data = {"corpus": "fineweb/*.bin", "train": "fineweb_t*", "val": "fineweb_v*"}
    note = corpus.prepare(DataSettings(**data), tmp_path, "study.toml").note
    assert note == "fineweb/*.bin: neither training nor validation files, not read: " + (
        "other_train_1.bin"
    )


def test_a_glob_without_splits_is_one_text(tmp_path):
    """Its last tenth is for validation, also if that is more than its last file."""
    for i in range(4):
        np.arange(i * 50, i * 50 + 50, dtype="<u2").tofile(tmp_path / f"part_{i}.bin")
    np.arange(200, 205, dtype="<u2").tofile(tmp_path / "part_9.bin")
    found = corpus.prepare(DataSettings(corpus="part_*.bin"), tmp_path, "study.toml")
    parts = []
    for split in (found.train, found.val):
        read = [np.fromfile(part.file, part.dtype)[part.start : part.stop] for part in split]
        parts.append(np.concatenate(read).tolist())
    assert parts == [list(range(184)), list(range(184, 205))]


@pytest.mark.parametrize(
    ("name", "patterns", "message"),
    [
        ("x/*.bin", {}, r"'x/\*\.bin': matches no file"),
        ("d/*.bin", {"train": "a*"}, r"data\.val: missing; both"),
        ("d", {"val": "a*"}, r"data\.train: missing; both"),
        ("d", {"train": "a*", "val": "z*"}, r"data\.val: 'z\*': matches no name .* files: a1, a2"),
        ("d", {"train": "y*", "val": "z*"}, r"data\.train: 'y\*'.*\n.*data\.val: 'z\*'"),
        ("d", {"train": "a*", "val": "*1.bin"}, r"data\.train: 'a\*' and val .* both match a1"),
        ("d/a1.bin", {"train": "a*", "val": "b*"}, r"is one file; train and val select"),
        ("d/a[3].bin", {"train": "a*", "val": "b*"}, r"is one file"),
        ("d", {}, r"needs files with `train` .* found: a1\.bin, a2\.bin"),
        ("e/*.bin", {}, r"needs files with `train` .* found: train_1\.bin"),
        ("synthetic", {"train": "a*", "val": "b*"}, "has one text; remove train and val"),
    ],
)
def test_an_unclear_split_is_refused(tmp_path, name, patterns, message):
    write(tmp_path, "d/a1.bin", "d/a2.bin", "d/b.bin", "d/a[3].bin", "e/train_1.bin")
    message = message.replace("a1, a2", r"a1\.bin, a2\.bin")
    with pytest.raises(UserError, match=message):
        corpus.prepare(DataSettings(corpus=name, **patterns), tmp_path, "study.toml")


def test_other_files_of_a_folder_are_ignored(tmp_path):
    write(tmp_path, *(f"d/{name}" for name in "train.bin val.bin .train_0.bin train.idx".split()))
    assert find(tmp_path, "d") == [["train.bin"], ["val.bin"], []]


def test_token_files_and_texts_are_not_mixed(tmp_path):
    write(tmp_path, "d/train.bin")
    (tmp_path / "d/val.txt").write_text("text " * 50)
    with pytest.raises(UserError, match="holds token files and texts"):
        corpus.prepare(DataSettings(corpus="d"), tmp_path, "study.toml")
