"""A data set of the hub is its documents, in the splits that it has or that the study names."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from harness.data import corpus, hub
from harness.data.pieces import find_source
from harness.errors import UserError
from harness.results.records import DataSettings

TRAIN = [f"Training document {i}. " for i in range(40)]
VAL = [f"Held-out document {i}. " for i in range(20)]
JOINED = "<|endoftext|>".join(TRAIN)


class FakeSplit:
    """What is used of `datasets.Dataset`."""

    def __init__(self, folder, split, texts, column="text"):
        self.split = split
        self.texts = texts
        self.num_rows = len(texts)
        self.column_names = ["id", column]
        file = folder / f"{split}.arrow"
        file.write_text("\n".join(map(str, texts)))
        self.cache_files = [{"filename": str(file)}]

    def select_columns(self, columns):
        assert columns == self.column_names[1:]
        return self

    def iter(self, size):
        for start in range(0, len(self.texts), size):
            yield {self.column_names[1]: self.texts[start : start + size]}


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """A stand-in for the package `datasets`; `.found` is what it loads, or an error."""
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "BATCH_ROWS", 7)
    (tmp_path / "hf").mkdir()
    module = SimpleNamespace(calls=[], found=None)

    def load(path, config=None, split=None):
        module.calls.append((path, config, split))
        if isinstance(module.found, Exception):
            raise module.found
        return module.found if split is None else [module.found[name] for name in split]

    module.load_dataset = load
    module.load_from_disk = lambda path: load(path, "from disk")
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


@pytest.fixture
def splits(tmp_path):
    parts = {"train": TRAIN, "validation": VAL, "test": VAL[:10]}
    return {name: FakeSplit(tmp_path / "hf", name, texts) for name, texts in parts.items()}


def prepare(folder, name="hf:owner/name", **data):
    return corpus.prepare(DataSettings(corpus=name, **data), folder, "study.toml")


def text_of(slices):
    parts = [np.fromfile(part.file, part.dtype)[part.start : part.stop] for part in slices]
    return bytes(np.concatenate(parts).astype(np.uint8)).decode()


def test_a_data_set_has_its_own_splits(tmp_path, datasets, splits):
    datasets.found = splits
    found = prepare(tmp_path)
    assert text_of(found.train) == JOINED
    assert text_of(found.val) == "<|endoftext|>".join(VAL)
    assert datasets.calls == [("owner/name", None, None)]
    assert found.name == "hf:owner/name"


def test_the_study_names_splits_and_configuration(tmp_path, datasets, splits):
    datasets.found = splits
    found = prepare(tmp_path, "hf:owner/name:small", train="validation", val="test")
    assert text_of(found.train) == "<|endoftext|>".join(VAL)
    assert text_of(found.val) == "<|endoftext|>".join(VAL[:10])
    assert datasets.calls == [("owner/name", "small", ["validation", "test"])]


def test_without_a_validation_split_the_last_part_validates(tmp_path, datasets, splits):
    datasets.found = {"train": splits["train"]}
    found = prepare(tmp_path)
    assert text_of(found.train + found.val) == JOINED
    assert len(text_of(found.val)) == pytest.approx(len(JOINED) / 10, abs=1)


def test_a_saved_folder_is_read(tmp_path, datasets, splits):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/dataset_dict.json").write_text("{}")
    datasets.found = splits
    assert text_of(prepare(tmp_path, "hf:saved").train) == JOINED
    (tmp_path / "local").mkdir()
    prepare(tmp_path, "hf:local")
    assert datasets.calls == [
        (str(tmp_path / "saved"), "from disk", None),
        (str(tmp_path / "local"), None, None),
    ]


def test_documents_are_tokenized_once(tmp_path, datasets, splits, monkeypatch):
    datasets.found = splits
    first = prepare(tmp_path)
    monkeypatch.setattr(hub.HubText, "documents", None)
    assert prepare(tmp_path) == first
    (tmp_path / "hf/train.arrow").write_text("another version")
    with pytest.raises(TypeError):
        prepare(tmp_path)


@pytest.mark.parametrize(
    ("found", "data", "message"),
    [
        (lambda s: {"trian": s["train"]}, {}, "no split 'train'; did you mean 'trian'"),
        (lambda s: s, {"text_column": "txt"}, "no column 'txt'; did you mean 'text'"),
        (lambda s: s["train"], {"train": "a", "val": "b"}, "has one split; remove train and val"),
        (lambda s: ValueError("Unknown config"), {}, "ValueError: Unknown config"),
        (lambda s: ConnectionError("no route"), {}, r"cannot be downloaded \(no route\)"),
    ],
)
def test_a_problem_of_a_data_set_is_named(tmp_path, datasets, splits, found, data, message):
    datasets.found = found(splits)
    name = "hf:saved" if not isinstance(datasets.found, dict | Exception) else "hf:owner/name"
    if name == "hf:saved":
        (tmp_path / "saved").mkdir()
        (tmp_path / "saved/state.json").write_text("{}")
    with pytest.raises(UserError, match=f"data.corpus: '{name}': {message}"):
        prepare(tmp_path, name, **data)


def test_a_row_without_text_is_named(tmp_path, datasets):
    datasets.found = {"train": FakeSplit(tmp_path / "hf", "train", ["a", "b", None])}
    with pytest.raises(UserError, match="row 3 of train: 'text' is NoneType, not text"):
        prepare(tmp_path)


def test_the_fallback_replaces_a_data_set_without_network(tmp_path, datasets, monkeypatch):
    monkeypatch.setattr(corpus, "SYNTHETIC_BYTES", 4000)
    datasets.found = ConnectionError("no route")
    found = prepare(tmp_path, fallback_corpus="synthetic")
    assert found.name == "synthetic"
    assert "hf:owner/name is not available, synthetic replaces it" in found.note


def test_the_package_is_named_if_it_is_missing(tmp_path, datasets, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'ablations\[datasets\]'"):
        prepare(tmp_path)


def test_a_data_set_can_be_prepared_as_shards(tmp_path, datasets, splits):
    datasets.found = splits
    source = find_source("hf:owner/name", tmp_path, "text", 0.1, "SOURCE")
    pieces = list(source.pieces(0.1))
    for split, documents in (("train", TRAIN), ("val", VAL)):
        expected = [document + "<|endoftext|>" for document in documents]
        assert [piece.text for piece in pieces if piece.split == split] == expected
    assert len(source.files) == 2
