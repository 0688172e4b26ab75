"""A file of another format trains without an error, on its braces or compressed bytes."""

import bz2
import csv
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pytest

from harness.data import corpus, formats
from harness.errors import UserError
from harness.results.records import DataSettings

TEXTS = ["It was the best of times, it was the worst of times. " * 40, "Call me Ishmael. " * 80]
TEXT = "\n".join(TEXTS)


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))


def prepare(folder, name):
    return corpus.prepare(DataSettings(corpus=name), folder, "study.toml")


def json_lines(indent=None):
    return "\n".join(json.dumps({"text": text}, indent=indent) for text in TEXTS).encode()


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", TEXT)
    return file.getvalue()


def tarred():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = len(TEXT)
        archive.addfile(member, io.BytesIO(TEXT.encode()))
    return file.getvalue()


def table():
    file = io.StringIO()
    csv.writer(file).writerows([[text] for text in TEXTS])
    return file.getvalue().encode()


def parquet():
    file = io.BytesIO()
    pd.DataFrame({"text": TEXTS}).to_parquet(file)
    return file.getvalue()


def feather():
    file = io.BytesIO()
    pd.DataFrame({"text": TEXTS}).to_feather(file)
    return file.getvalue()


def numpy_array():
    file = io.BytesIO()
    np.save(file, np.arange(1000, dtype=np.uint16))
    return file.getvalue()


def database():
    connection = sqlite3.connect(":memory:")
    connection.execute("create table texts (text text)")
    return connection.serialize()


# Suffix: content, and words of the remedy. The content is also recognized without the suffix.
FILES = {
    ".json": (json_lines(), "one object per line"),
    ".ipynb": (json.dumps([{"text": text} for text in TEXTS], indent=2).encode(), "lines=True"),
    ".arrow": (feather(), "read_feather"),
    ".gz": (gzip.compress(TEXT.encode()), "gunzip"),
    ".xz": (lzma.compress(TEXT.encode()), "unxz"),
    ".bz2": (bz2.compress(TEXT.encode()), "bunzip2"),
    ".zst": (b"\x28\xb5\x2f\xfd" + bytes(range(256)), "unzstd"),
    ".zip": (zipped(), "unzip"),
    ".tar": (tarred(), "tar xf"),
    ".npy": (numpy_array(), "astype"),
    ".pkl": (pickle.dumps({"text": TEXTS}), "could run code"),
    ".sqlite": (database(), ".txt file"),
    ".pdf": (b"%PDF-1.7\n" + TEXT.encode(), ".txt file"),
}


@pytest.mark.parametrize("suffix", FILES)
@pytest.mark.parametrize("lies", [False, True], ids=["suffix", "content"])
def test_another_format_is_refused_with_its_remedy(tmp_path, suffix, lies):
    content, remedy = FILES[suffix]
    for name in ("corpus.txt", "corpus", "train.bin") if lies else (f"corpus{suffix}",):
        if name == "train.bin" and suffix in (".json", ".ipynb"):
            remedy = "text or 8-bit values"
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=remedy):
            prepare(tmp_path, name)


@pytest.mark.parametrize("suffix", " ".join(formats.SUFFIXES.values()).split())
def test_every_listed_suffix_is_refused_in_any_case(tmp_path, suffix):
    for name in (f"corpus{suffix}", f"corpus.txt{suffix.upper()}"):
        (tmp_path / name).write_text(TEXT)
        with pytest.raises(UserError, match=f"by its suffix {suffix}"):
            prepare(tmp_path, name)


def test_every_kind_has_a_remedy():
    assert {*formats.SUFFIXES, *formats.MAGIC.values()} <= formats.REMEDIES.keys()


def test_a_table_as_csv_is_refused(tmp_path):
    (tmp_path / "table.csv").write_bytes(table())
    with pytest.raises(UserError, match="read_csv"):
        prepare(tmp_path, "table.csv")


@pytest.mark.parametrize(
    "content",
    [
        bytes(range(256)) * 20,
        np.arange(5000, dtype=np.uint16).tobytes(),
        np.full(500, 65, np.uint16).tobytes(),
        np.random.default_rng(0).bytes(10_000),
        np.arange(500, dtype=np.float32).tobytes(),
    ],
    ids=["every byte", "tokens", "valid UTF-8", "random", "floats"],
)
def test_binary_content_is_named(tmp_path, content):
    (tmp_path / "corpus.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"is binary .*uint16 tokens with the suffix .bin"):
        prepare(tmp_path, "corpus.txt")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "latin-1", "cp1252"])
def test_another_encoding_is_refused(tmp_path, encoding):
    (tmp_path / "corpus.txt").write_bytes((TEXT + "é").encode(encoding))
    with pytest.raises(UserError, match=r"iconv|is binary"):
        prepare(tmp_path, "corpus.txt")


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "[Enter HAMLET]\n\nTo be, or not to be.\n" * 50,
        "{\\bf Theorem.} Let x be in [0, 1].\n" * 50,
        '{"an": "object"}\nand then prose\n' * 50,
        "def f():\n\treturn {1: [2]}\x0c\n" * 50,
        "语言模型。" * 200,
        "\ufeffA text with a byte order mark.\n" * 50,
        "ORCHESTRA. GUILDHALL. PARIS.\n" * 50,
        "a,b\n1,2\n" * 50,
        "<html><p>Marked up.</p></html>\n" * 50,
        "\x1b[1mbold\x1b[0m and one \x00 here" + TEXT,
    ],
)
def test_plain_text_of_any_kind_is_read(tmp_path, text):
    (tmp_path / "corpus.txt").write_bytes(text.encode())
    found = prepare(tmp_path, "corpus.txt")
    assert corpus.Corpus.n_tokens(found.train + found.val) == len(text.encode())


def test_a_parquet_table_of_another_name_is_named(tmp_path):
    for name in ("corpus.txt", "corpus", "train.bin"):
        (tmp_path / name).write_bytes(parquet())
        with pytest.raises(UserError, match=r"is a Parquet table .*name it \.parquet"):
            prepare(tmp_path, name)


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "corpus.txt").write_text(TEXT)

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("harness.data.tables.read_file", refuse)
    with pytest.raises(UserError, match=r"cannot be read .*Permission denied"):
        prepare(tmp_path, "corpus.txt")


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "\ud800", "", "a\nb"])
def test_an_impossible_path_is_named(tmp_path, name):
    with pytest.raises(UserError, match=r"cannot be read|no such file|needs files"):
        prepare(tmp_path, name)


def test_a_folder_of_another_format_is_named(tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/train-00000.arrow").write_bytes(feather())
    with pytest.raises(UserError, match=r"needs files with `train` .*read_feather"):
        prepare(tmp_path, "shards")
