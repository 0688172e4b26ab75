"""A shard that differs after an interruption, or lost text, changes what a study trains on."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from harness.data import corpus, pieces, workers
from harness.data.pieces import cut, find_source
from harness.data.prepare import PrepareSettings, prepare_shards
from harness.data.tokenizers import Tokenizer
from harness.errors import UserError
from harness.results.records import DataSettings

SEPARATOR = "<|endoftext|>"
DOCUMENTS = [f"Document {i}\nholds the number {i * i}. " * (1 + i % 7) for i in range(60)]
SHAKESPEARE = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak!\n" * 30


class InProcess:
    """An executor that runs its tasks when they are submitted, in this process."""

    def __init__(self, n_workers, context, initializer, arguments):
        workers._tokenizer = Tokenizer(*arguments)

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future

    def shutdown(self, cancel_futures):
        assert cancel_futures


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "ProcessPoolExecutor", InProcess)
    monkeypatch.setattr(workers, "TASK_CHARACTERS", 300)
    monkeypatch.setattr("os.fsync", lambda fd: None)


def write_documents(documents=DOCUMENTS):
    lines = [json.dumps({"text": document}) + "\n" for document in documents]
    Path("a.jsonl").write_text("".join(lines))


def run(source="a.jsonl", tokenizer="bytes", out="out", report=lambda progress: None, **settings):
    settings = {"shard_tokens": 1000, "val_fraction": 0.1} | settings
    return prepare_shards(PrepareSettings(source, tokenizer, Path(out), **settings), report)


def tokens_of(split, out="out"):
    files = sorted(Path(out).glob(f"{split}_*.bin"))
    parts = [np.fromfile(file, "<u2")[512:] for file in files]
    return np.concatenate(parts), len(files)


def text_of(split, out="out"):
    return bytes(tokens_of(split, out)[0].astype(np.uint8)).decode()


def contents(out="out"):
    return {file.name: file.read_bytes() for file in Path(out).iterdir()}


def test_every_document_is_in_one_split_in_order():
    """Every tenth is for validation, whole, and a separator ends each."""
    write_documents()
    manifest = run()
    val = [document for i, document in enumerate(DOCUMENTS) if i % 10 == 9]
    train = [document for i, document in enumerate(DOCUMENTS) if i % 10 != 9]
    for split, documents in (("train", train), ("val", val)):
        assert text_of(split) == "".join(document + SEPARATOR for document in documents)
    shards = [shard for shard in manifest.shards if shard.split == "train"]
    assert len(shards) > 5
    assert all(1000 <= shard.tokens < 1400 for shard in shards[:-1])
    assert sum(shard.pieces for shard in manifest.shards) == 60


@pytest.mark.parametrize("tokenizer", ["bytes", "gpt2"])
def test_a_study_reads_the_shards(tokenizer):
    write_documents()
    try:
        Tokenizer(tokenizer)
    except UserError:
        pytest.skip("the tokenizer is not available")
    manifest = run(tokenizer=tokenizer)
    data = DataSettings(corpus="out", tokenizer=tokenizer)
    found = corpus.prepare(data, Path(), "study.toml")
    assert "header of llm.c" in found.note
    for split, slices in (("train", found.train), ("val", found.val)):
        tokens = [shard.tokens for shard in manifest.shards if shard.split == split]
        assert [part.stop - part.start for part in slices] == tokens


@pytest.mark.parametrize("stop_after", [1, 5, 12, 20])
def test_an_interrupted_call_is_finished_with_the_same_files(stop_after):
    write_documents()
    run(out="whole")
    n_reports = 0

    def interrupt(progress):
        nonlocal n_reports
        n_reports += 1
        if n_reports == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(report=interrupt)
    kept = {name: Path("out", name).stat().st_mtime_ns for name in contents() if "_" in name}
    run()
    assert contents() == contents("whole")
    assert all(Path("out", name).stat().st_mtime_ns == kept[name] for name in kept)
    assert (len(kept) > 0) == (stop_after > 1)


def test_finished_shards_are_not_tokenized_again(monkeypatch):
    write_documents()
    run()
    monkeypatch.setattr(workers, "tokenize", None)
    run()


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"damaged")])
@pytest.mark.parametrize("name", ["train_000000.bin", "train_000003.bin", "val_000000.bin"])
def test_a_damaged_shard_is_refused_and_written_again(name, damage):
    write_documents()
    run()
    before = contents()
    damage(Path("out", name))
    with pytest.raises(UserError, match=rf"{name}: is (missing|not as)|needs files with"):
        corpus.prepare(DataSettings(corpus="out"), Path(), "study.toml")
    run()
    assert contents() == before


def test_incomplete_shards_are_refused():
    write_documents()
    run()
    manifest = Path("out/manifest.json")
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    with pytest.raises(UserError, match=r"manifest.json: the shards are incomplete"):
        corpus.prepare(DataSettings(corpus="out"), Path(), "study.toml")


def test_shards_of_another_tokenizer_are_refused():
    """Tokens of `bytes` are valid tokens of GPT-2."""
    write_documents()
    run()
    manifest = Path("out/manifest.json")
    manifest.write_text(manifest.read_text().replace('"bytes"', '"gpt2"'))
    with pytest.raises(UserError, match=r"hold tokens of 'gpt2', the study has the tokenizer 'byt"):
        corpus.prepare(DataSettings(corpus="out"), Path(), "study.toml")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"shard_tokens": 999}, "shard_tokens"),
        ({"val_fraction": 0.2}, "val_fraction"),
        ({"text_column": "id"}, "text_column"),
        ({"documents": DOCUMENTS[1:]}, "sources"),
    ],
)
def test_shards_of_other_settings_are_not_continued(change, name):
    write_documents()
    run()
    write_documents(change.get("documents", DOCUMENTS))
    settings = {key: value for key, value in change.items() if key != "documents"}
    with pytest.raises(UserError, match=rf"holds shards of another {name}; name another folder"):
        run(**settings)


def test_a_folder_with_other_files_is_refused():
    write_documents()
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("irreplaceable")
    with pytest.raises(UserError, match="holds other files"):
        run()


def test_a_separator_alone_is_no_validation_text():
    Path("a.txt").write_text("One line without a place to cut it.\n")
    with pytest.raises(UserError, match="no text for val among 1 documents"):
        run("a.txt")
    Path("b.txt").write_text(SHAKESPEARE)
    run("b.txt", out="b")
    assert len(tokens_of("val", "b")[0]) > len(SEPARATOR)


@pytest.mark.parametrize("documents", [DOCUMENTS[:3], []])
def test_a_split_without_text_is_refused(documents):
    write_documents(documents)
    if not documents:
        Path("a.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"no text for (val|train) among \d documents; --val-frac"):
        run()


def test_the_splits_of_the_source_are_kept():
    for name, documents in (("train-0", DOCUMENTS[:40]), ("train-1", DOCUMENTS[40:]), ("val", "x")):
        write_documents(documents)
        Path("d").mkdir(exist_ok=True)
        Path("a.jsonl").rename(f"d/{name}.jsonl")
    run("d")
    assert text_of("train") == "".join(document + SEPARATOR for document in DOCUMENTS)
    assert text_of("val") == "x" + SEPARATOR


def test_a_text_is_split_at_its_end(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_CHARACTERS", 200)
    Path("a.txt").write_text(SHAKESPEARE)
    run("a.txt")
    train = text_of("train")
    assert train + text_of("val") == SHAKESPEARE + SEPARATOR
    assert 0.9 * len(SHAKESPEARE) <= len(train) < 0.9 * len(SHAKESPEARE) + 80
    assert train.endswith("\n")


def test_separators_in_a_text_end_its_documents():
    Path("a.txt").write_text(SEPARATOR.join(DOCUMENTS))
    run("a.txt")
    write_documents()
    run("a.jsonl", out="other")
    for split in ("train", "val"):
        assert text_of(split) == text_of(split, "other")


def test_token_files_are_not_tokenized():
    np.full(100, 65, "<u2").tofile("a.bin")
    with pytest.raises(UserError, match="holds tokens already"):
        run("a.bin")


texts = [
    SHAKESPEARE,
    "def f(x):\n\treturn x\n\n\nprint(f(2))\n" * 40,
    "A question?\n/usr/bin\n...\n!\n'll we? I'll\n123\n456\n" * 40,
    "Ünïcode 语言\n模型\n\r\nРазные\r\nстроки \n x\n" * 40,
    f"One.\n{SEPARATOR}\nTwo.{SEPARATOR}Three\n" * 40,
    "no line ends " * 200,
]


@pytest.mark.parametrize("text", texts)
@pytest.mark.parametrize("tokenizer", ["bytes", "gpt2", "cl100k_base", "o200k_base"])
def test_parts_have_the_tokens_of_the_whole(text, tokenizer):
    """A cut that moves a token's border would train on other tokens than the text itself."""
    try:
        encode = Tokenizer(tokenizer).encode
    except UserError:
        pytest.skip("the tokenizer is not available")
    for size in (1, 17, 300):
        parts = list(cut(text, size))
        assert "".join(parts) == text
        found = np.concatenate([encode(part) for part in parts])
        assert found.tolist() == encode(text).tolist()


def test_progress_states_the_time_left():
    write_documents()
    seen = []
    run(report=seen.append)
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < 0.2 and 0.8 < fractions[-1] <= 1
    assert seen[0].left_s is None
    assert all(progress.left_s >= 0 for progress in seen[1:])


def test_processes_tokenize_as_this_one_does(monkeypatch):
    write_documents()
    run(out="here")
    monkeypatch.setattr(workers, "ProcessPoolExecutor", ProcessPoolExecutor)
    run(n_workers=2)
    assert contents("out") == contents("here")


KILLED = """
import os
from harness.data import pieces, workers
if __name__ == "__main__":
    text = [pieces.Piece("a" * 1000, "train", 1000)] * 50
    workers.TASK_CHARACTERS = 1000
    next(workers.tokenize(iter(text), "bytes", 1))
    os._exit(9)
"""


def test_workers_end_with_a_killed_process(tmp_path):
    """They would stay for ever, and hold the terminal's output open."""
    environment = {**os.environ, "PYTHONPATH": str(Path(workers.__file__).parents[2])}
    command = [sys.executable, "-c", KILLED]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=300)
    assert done.returncode == 9, done.stderr


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz", "a.jsonl.zst", "a.txt", "d/*.txt"])
def test_sources_estimate_their_size(name):
    import gzip

    import pandas as pd
    import pyarrow

    write_documents()
    lines = Path("a.jsonl").read_bytes()
    Path("a.jsonl.gz").write_bytes(gzip.compress(lines))
    Path("a.jsonl.zst").write_bytes(pyarrow.Codec("zstd").compress(lines, asbytes=True))
    pd.DataFrame({"text": DOCUMENTS}).to_parquet("a.parquet")
    Path("a.txt").write_text("".join(DOCUMENTS))
    Path("d").mkdir()
    for i, document in enumerate(DOCUMENTS):
        Path(f"d/{i:02}.txt").write_text(document)
    source = find_source(name, Path(), "text", 0.1, "SOURCE")
    assert 200 < source.n_bytes < 20_000
    assert "".join(source.train()) == "".join(DOCUMENTS)
    assert re.fullmatch(r"[0-9a-f]{64}", source.files[0].sha256)
