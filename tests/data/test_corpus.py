"""A wrong text or a wrong split makes losses incomparable without any error."""

import functools
import hashlib
import os
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

from harness.data import corpus
from harness.data.tokenizers import Tokenizer
from harness.errors import UserError
from harness.results.records import DataSettings

REAL = Path(os.environ.get("ABLATIONS_DATA") or Path(__file__).parents[3] / "shared/data").resolve()


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ABLATIONS_DATA", raising=False)


@pytest.fixture
def web(tmp_path):
    """Serve a folder over HTTP; return the folder and its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    folder = tmp_path / "web"
    folder.mkdir()
    server = HTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def tokens(slices):
    return np.concatenate(
        [np.memmap(part.file, np.uint16, "r")[part.start : part.stop] for part in slices]
    )


def prepare(folder, **data):
    return corpus.prepare(DataSettings(**data), folder, "study.toml")


def test_a_text_is_split_into_nine_tenths_and_the_rest(tmp_path):
    text = "".join(chr(97 + i % 26) for i in range(1000)) + "é"
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    found = prepare(tmp_path, corpus="text.txt")
    train, val = tokens(found.train), tokens(found.val)
    assert (
        bytes(np.concatenate((train, val)).astype(np.uint8)).decode() == text and len(train) == 900
    )
    assert found.vocab_size == 256 and found.entropy is None
    assert (np.load(found.token_bytes) == 1).all()


def test_a_text_is_tokenized_once(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("to be or not to be " * 50)
    first = prepare(tmp_path, corpus="text.txt")
    monkeypatch.setattr(Tokenizer, "encode", None)
    assert prepare(tmp_path, corpus="text.txt") == first
    Path(first.train[0].file).write_bytes(b"torn")  # an incomplete cache is not used
    with pytest.raises(TypeError):
        prepare(tmp_path, corpus="text.txt")


@pytest.mark.parametrize("as_folder", [True, False])
def test_shards_are_mapped_in_place(tmp_path, as_folder):
    numbers = np.arange(250, dtype=np.uint16)
    folder = tmp_path / "shards"
    folder.mkdir()
    if as_folder:
        for name, part in (
            ("train_0", numbers[:100]),
            ("train_1", numbers[100:220]),
            ("val_0", numbers[220:]),
        ):
            part.tofile(folder / f"{name}.bin")
        found = prepare(tmp_path, corpus="shards")
    else:
        numbers.tofile(folder / "all.bin")
        found = prepare(tmp_path, corpus="shards/all.bin")
    assert (tokens(found.train + found.val) == numbers).all()
    assert corpus.Corpus.n_tokens(found.val) == (30 if as_folder else 25)
    assert {Path(part.file).parent for part in found.train} == {folder}


def test_invalid_shards_are_rejected(tmp_path):
    np.array([0, 300], np.uint16).tofile(tmp_path / "large.bin")
    (tmp_path / "odd.bin").write_bytes(b"abc")
    (tmp_path / "half").mkdir()
    np.zeros(4, np.uint16).tofile(tmp_path / "half/train.bin")
    for name, message in (
        ("large.bin", "holds token 300 at position 1, the tokenizer 'bytes' has 256"),
        ("odd.bin", "3 bytes; uint16 tokens take two each"),
        ("half", "needs files with `train` and files with `val`.*found: train.bin"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(tmp_path, corpus=name)


def test_a_download_with_a_wrong_hash_is_rejected_and_removed(tmp_path, web, monkeypatch):
    folder, address = web
    (folder / "input.txt").write_text("something else")
    monkeypatch.setattr(corpus, "URL", f"{address}/input.txt")
    with pytest.raises(UserError, match="not the file expected and was not kept") as error:
        prepare(
            tmp_path, corpus="tinyshakespeare", fallback_corpus="synthetic"
        )  # the fallback does not replace a wrong file
    assert not isinstance(error.value, corpus.UnavailableError)
    assert not list((tmp_path / "cache").rglob("tinyshakespeare*"))


def test_a_valid_download_is_kept(tmp_path, web, monkeypatch):
    folder, address = web
    text = "What say you of this? " * 100
    (folder / "input.txt").write_text(text)
    monkeypatch.setattr(corpus, "URL", f"{address}/input.txt")
    monkeypatch.setattr(corpus, "SHA256", hashlib.sha256(text.encode()).hexdigest())
    found = prepare(tmp_path, corpus="tinyshakespeare")
    assert found.sha256 == corpus.SHA256 and found.note is None
    (folder / "input.txt").unlink()
    assert prepare(tmp_path, corpus="tinyshakespeare") == found


def test_a_fallback_is_used_only_if_named_and_is_announced(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "URL", "http://127.0.0.1:9/missing")
    monkeypatch.setattr(corpus, "SYNTHETIC_BYTES", 5000)
    with pytest.raises(
        UserError,
        match=r"save it as tinyshakespeare.txt in a folder and set ABLATIONS_DATA to that folder",
    ):
        prepare(tmp_path, corpus="tinyshakespeare")
    found = prepare(tmp_path, corpus="tinyshakespeare", fallback_corpus="synthetic")
    assert (
        found.name == "synthetic"
        and "tinyshakespeare is not available, synthetic replaces it" in found.note
    )
    assert found.entropy is not None and 0.2 < found.entropy < 1.5


@pytest.mark.parametrize("name", ["shakespear.txt", "shards.bin"])
def test_a_missing_file_is_not_replaced_by_the_fallback(tmp_path, name):
    """A typo in a path would train on another text."""
    with pytest.raises(UserError, match="no such file"):
        prepare(tmp_path, corpus=name, fallback_corpus="synthetic")


def test_a_changed_local_copy_is_rejected(tmp_path, monkeypatch):
    (tmp_path / "tinyshakespeare.txt").write_text("First Citizen: we were changed")
    monkeypatch.setenv("ABLATIONS_DATA", str(tmp_path))
    with pytest.raises(UserError, match=f"expected {corpus.SHA256}"):
        prepare(tmp_path, corpus="tinyshakespeare", fallback_corpus="synthetic")


@pytest.mark.skipif(
    not (REAL / "tinyshakespeare.txt").exists(), reason="tiny Shakespeare is not available"
)
def test_tiny_shakespeare_has_the_token_counts_of_nanogpt(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_DATA", str(REAL))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(REAL / "tiktoken_cache"))
    found = prepare(tmp_path, corpus="tinyshakespeare", tokenizer="gpt2")
    assert (
        corpus.Corpus.n_tokens(found.train) == 301_966
        and corpus.Corpus.n_tokens(found.val) == 36_059
    )
    n_bytes = np.load(found.token_bytes)
    assert n_bytes[tokens(found.train + found.val)].sum() == 1_115_394 and found.vocab_size == 50257


def test_bytes_equal_their_encoding_by_tiktoken():
    text = "Ünïcode and ascii\n"
    tokenizer = Tokenizer("bytes")
    assert (
        tokenizer.encode(text).tolist() == tokenizer._encoding.encode(text) == list(text.encode())
    )


def test_the_error_says_how_to_get_a_tokenizer(monkeypatch):
    import tiktoken

    def offline(name):
        raise ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(UserError, match="TIKTOKEN_CACHE_DIR=FOLDER"):
        Tokenizer("gpt2")
