"""Masked documents need a token that separates them, and a text that contains it."""

import numpy as np
import pytest
import tiktoken

from harness.data import corpus, documents
from harness.data.tokenizers import NAMES
from harness.errors import UserError
from harness.results.records import DataSettings

SEPARATOR = 256
TEXT = "One.<|endoftext|>Two words.<|endoftext|>Three." * 20


@pytest.fixture(autouse=True)
def encoding(tmp_path, monkeypatch):
    """Replace the encodings by bytes with a separator."""
    made = tiktoken.Encoding(
        "gpt2",
        pat_str=r"(?s:.)",
        mergeable_ranks={bytes([value]): value for value in range(256)},
        special_tokens={"<|endoftext|>": SEPARATOR},
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda _: made)
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))


def prepare(folder, **data):
    return corpus.prepare(DataSettings(**data), folder, "study.toml")


@pytest.mark.parametrize("tokenizer", [name for name in NAMES if name != "bytes"])
def test_separator_of_the_tokenizer_is_stated_only_for_a_mask(tmp_path, tokenizer):
    """A separator in the spec masks: a study of another kind must not get it."""
    (tmp_path / "text.txt").write_text(TEXT)
    found = {}
    for kind in ("cross", "mask"):
        found[kind] = prepare(tmp_path, corpus="text.txt", tokenizer=tokenizer, documents=kind)
    assert found["mask"].separator == SEPARATOR
    assert found["cross"].separator is None
    assert found["cross"].train == found["mask"].train


def test_tokenizer_without_separator_is_refused(tmp_path):
    """The mask would never apply, and the study would compare nothing."""
    (tmp_path / "text.txt").write_text(TEXT)
    with pytest.raises(UserError, match="'bytes' has no token that separates documents") as raised:
        prepare(tmp_path, corpus="text.txt", documents="mask")
    (problem,) = raised.value.problems
    assert problem.location == "study.toml: data.documents"
    assert "gpt2" in problem.message and 'data.documents = "cross"' in problem.message


def test_text_without_separators_is_refused(tmp_path):
    (tmp_path / "text.txt").write_text("One text, and no other. " * 100)
    with pytest.raises(UserError, match=r"training part of 'text\.txt' has no <"):
        prepare(tmp_path, corpus="text.txt", tokenizer="gpt2", documents="mask")


@pytest.mark.parametrize("position", [0, 4, 5, 11, 12])
def test_separator_is_found_in_any_shard_and_chunk(tmp_path, monkeypatch, position):
    """A large corpus would be refused if only its beginning were searched."""
    monkeypatch.setattr(documents, "CHUNK", 5)
    folder = tmp_path / "shards"
    folder.mkdir()
    tokens = np.full(13, 300 - 60, np.uint16)
    tokens[position] = SEPARATOR
    tokens[:7].tofile(folder / "a_train.bin")
    tokens[7:].tofile(folder / "b_train.bin")
    np.arange(200, 216, dtype=np.uint16).tofile(folder / "a_val.bin")
    monkeypatch.setattr("harness.data.shards._alphabet_problem", lambda *_: None)
    found = prepare(tmp_path, corpus="shards", tokenizer="gpt2", documents="mask")
    assert found.separator == SEPARATOR
