"""A document that is lost, or read from another column, changes the text without an error."""

import gzip
import json
import sys

import numpy as np
import pandas as pd
import pyarrow
import pytest

from harness.data import corpus, tables
from harness.errors import UserError
from harness.results.records import DataSettings

DOCUMENTS = ["Call me Ishmael. " * 40, "", "Ünïcode\nand two lines. " * 30, "The end. " * 90]
JOINED = "<|endoftext|>".join(DOCUMENTS)
PLACE = "study.toml: data.corpus"


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))


def json_lines(column="text", documents=DOCUMENTS):
    rows = [json.dumps({"id": i, column: text}) for i, text in enumerate(documents)]
    return "\n".join(rows).encode() + b"\n"


def zstd(content):
    return pyarrow.Codec("zstd").compress(content, asbytes=True)


def write(folder, name, column="text", documents=DOCUMENTS):
    """Write documents in the format of a name."""
    file = folder / name
    if name.endswith((".parquet", ".pq")):
        table = pd.DataFrame({"id": range(len(documents)), column: documents})
        table.to_parquet(file, row_group_size=2)
    elif name.endswith(".txt"):
        file.write_text("<|endoftext|>".join(documents))
    else:
        compress = {".gz": gzip.compress, ".zst": zstd}.get(file.suffix, bytes)
        file.write_bytes(compress(json_lines(column, documents)))
    return file


NAMES = "a.jsonl a.ndjson a.JSONL a.jsonlines a.jsonl.gz a.jsonl.zst a.parquet a.pq a.txt".split()


def prepare(folder, name, **data):
    return corpus.prepare(DataSettings(corpus=name, **data), folder, "study.toml")


def text_of(slices):
    parts = [np.fromfile(part.file, part.dtype)[part.start : part.stop] for part in slices]
    return bytes(np.concatenate(parts).astype(np.uint8)).decode()


@pytest.mark.parametrize("name", NAMES)
def test_documents_are_one_text_whatever_the_format(tmp_path, name):
    """The text is that of the .txt with separators, so that its runs are the same."""
    write(tmp_path, name)
    found = prepare(tmp_path, name)
    (tmp_path / "joined.txt").write_text(JOINED)
    plain = prepare(tmp_path, "joined.txt")
    assert text_of(found.train + found.val) == JOINED
    assert found.sha256 == plain.sha256
    assert [source.file for source in found.sources] == [str(tmp_path / name)]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "a.txt"])
def test_a_column_is_selected_and_a_wrong_one_named(tmp_path, name):
    write(tmp_path, name, column="content")
    assert (
        text_of(prepare(tmp_path, name, text_column="content").train)
        == JOINED[: int(len(JOINED) * 0.9)]
    )
    with pytest.raises(UserError, match=r"no column 'contents'; did you mean 'content'\? allowed"):
        prepare(tmp_path, name, text_column="contents")


def test_splits_are_separate_files(tmp_path):
    (tmp_path / "d").mkdir()
    for i, name in enumerate(("train-0.parquet", "train-1.jsonl", "validation-0.jsonl.gz")):
        write(tmp_path / "d", name, documents=[f"text {i} " * 40])
    found = prepare(tmp_path, "d")
    assert text_of(found.train) == "text 0 " * 40 + "<|endoftext|>" + "text 1 " * 40
    assert text_of(found.val) == "text 2 " * 40
    moved = prepare(tmp_path, "d/*", train="train-0*", val="train-1*")
    assert moved.sha256 != found.sha256


def test_a_text_that_occurs_twice_is_refused(tmp_path):
    """Without validation files the last tenth validates: training would have seen it."""
    (tmp_path / "d").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path / "d", name, documents=["the same text " * 40])
    with pytest.raises(UserError, match=r"training and validation have the same content: .*b\.js"):
        prepare(tmp_path, "d/*.jsonl")


def test_validation_on_the_training_text_is_refused(tmp_path):
    (tmp_path / "d").mkdir()
    for name in ("train-0.jsonl", "train-1.jsonl", "val-0.jsonl"):
        write(tmp_path / "d", name, documents=[f"text {name[-7]} " * 40])
    message = r"data\.corpus: 'd': training and validation have the same content: \S*train-0\.jsonl"
    with pytest.raises(UserError, match=message):
        prepare(tmp_path, "d")


def test_a_table_is_read_once(tmp_path, monkeypatch):
    name = write(tmp_path, "a.jsonl").name
    first = prepare(tmp_path, name)
    monkeypatch.setattr(tables, "documents", None)
    assert prepare(tmp_path, name) == first
    with pytest.raises(TypeError):
        prepare(tmp_path, name, text_column="other")


LINES = {
    b"{": "line 2: not JSON",
    b'{"text": NaN}': "line 2: not JSON",
    b'{"text": "\\ud800"}': "line 2: not JSON",
    b"\xff": "line 2: not JSON",
    b'["text"]': "line 2: a JSON array; each line must be an object",
    b'"text"': "line 2: a JSON string; each line must be an object",
    b"null": "line 2: a JSON null; each line must be an object",
    b"3": "line 2: a JSON number",
    b'{"txt": "a"}': "line 2: no column 'text'; did you mean 'txt'?",
    b'{"body": "a"}': r"line 2: no column 'text'; allowed: body; set text_column",
    b"{}": "line 2: no column 'text'; allowed: none",
    b'{"text": null}': "line 2: 'text' is a JSON null, not text; remove the line",
    b'{"text": ["a"]}': "line 2: 'text' is a JSON array, not text",
    b'{"text": {"a": 1}}': "line 2: 'text' is a JSON object, not text",
    b'{"text": true}': "line 2: 'text' is a JSON boolean, not text",
}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_an_invalid_line_is_named(tmp_path, line, name):
    content = json_lines(documents=DOCUMENTS[:1]) + line + b"\n" + json_lines()
    compress = {"gz": gzip.compress, "zst": zstd}.get(name.rpartition(".")[2], bytes)
    (tmp_path / name).write_bytes(compress(content))
    with pytest.raises(UserError) as error:
        prepare(tmp_path, name)
    assert LINES[line].replace("\\", "") in str(error.value)
    assert str(error.value).startswith(f"study.toml: data.corpus: {tmp_path / name}: line 2: ")


def test_several_invalid_lines_are_listed(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json_lines() + b"[]\n" * 30)
    with pytest.raises(UserError) as error:
        prepare(tmp_path, "a.jsonl")
    lines = [f"line {5 + i}" in str(problem) for i, problem in enumerate(error.value.problems)]
    assert lines == [True] * tables.MAX_PROBLEMS


def test_empty_lines_and_a_byte_order_mark_are_skipped(tmp_path):
    content = b"\xef\xbb\xbf" + json_lines().replace(b"\n", b"\r\n\n") + b"\n"
    (tmp_path / "a.jsonl").write_bytes(content)
    assert text_of(prepare(tmp_path, "a.jsonl").train) == JOINED[: int(len(JOINED) * 0.9)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", None, "b"], "row 2: 'text' is null; remove the row"),
        ([1, 2], "the column 'text' is of type int64, not string; set text_column"),
        ([b"a", b"b"], "the column 'text' is of type binary, not string"),
        ([["a"], ["b"]], "the column 'text' is of type list"),
    ],
)
def test_an_invalid_column_is_named(tmp_path, values, message):
    table = pyarrow.table({"text": values})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=rf"a\.parquet: {message}"):
        prepare(tmp_path, "a.parquet")


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("n_bytes", [0, 3, 40, -30])
def test_a_truncated_file_is_named(tmp_path, name, n_bytes):
    file = write(tmp_path, name)
    file.write_bytes(file.read_bytes()[:n_bytes])
    with pytest.raises(UserError, match=name):
        prepare(tmp_path, name)


def test_without_pyarrow_the_package_is_named(tmp_path, monkeypatch):
    for name in ("a.parquet", "a.jsonl.zst"):
        write(tmp_path, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in ("a.parquet", "a.jsonl.zst"):
        with pytest.raises(UserError, match=r"pip install 'ablations\[parquet\]'"):
            prepare(tmp_path, name)


def test_a_text_without_documents_is_refused_by_its_length(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n\n")
    found = prepare(tmp_path, "a.jsonl")
    assert corpus.Corpus.n_tokens(found.train + found.val) == 0
