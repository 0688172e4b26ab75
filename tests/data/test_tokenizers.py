"""A separator that is split into ordinary tokens teaches the model to spell its name."""

from pathlib import Path

import numpy as np
import pytest
import tiktoken
import tiktoken_ext.openai_public as published

from harness.data import corpus, text_cache
from harness.data.tokenizers import NAMES, Tokenizer
from harness.errors import UserError
from harness.results.records import DataSettings

SPECIAL = [
    published.ENDOFTEXT,
    published.FIM_PREFIX,
    published.FIM_MIDDLE,
    published.FIM_SUFFIX,
    published.ENDOFPROMPT,
]
WITH_SPECIAL = [name for name in NAMES if name != "bytes"]


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tokenizer(monkeypatch):
    """Bytes, and every special token of tiktoken's encodings."""
    encoding = tiktoken.Encoding(
        "gpt2",
        pat_str=r"(?s:.)",
        mergeable_ranks={bytes([value]): value for value in range(256)},
        special_tokens={token: 256 + i for i, token in enumerate(SPECIAL)},
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda _: encoding)
    return Tokenizer("gpt2")


@pytest.mark.parametrize("i", range(len(SPECIAL)))
def test_each_special_token_in_a_text_is_one_token(tokenizer, i):
    text = f"One.{SPECIAL[i]}Two.{SPECIAL[i]}{SPECIAL[i]}"
    expected = [*b"One.", 256 + i, *b"Two.", 256 + i, 256 + i]
    assert tokenizer.encode(text).tolist() == expected
    assert tokenizer.decode_bytes(expected) == text.encode()


def test_part_of_a_special_token_is_text(tokenizer):
    text = SPECIAL[0][:-1] + " " + SPECIAL[0][1:]
    assert tokenizer.encode(text).tolist() == list(text.encode())


def test_special_tokens_have_no_bytes(tokenizer, tmp_path):
    n_bytes = np.load(tokenizer.byte_lengths(tmp_path))
    assert n_bytes.tolist() == [1] * 256 + [0] * len(SPECIAL)


@pytest.mark.parametrize("token", SPECIAL)
def test_the_split_does_not_cut_a_special_token(tokenizer, tmp_path, token):
    """Its halves would be ordinary tokens, one on each side."""
    file = tmp_path / "text.txt"
    for before in range(890, 902):
        file.write_text("a" * before + token + "b" * (1000 - before - len(token)))
        settings = DataSettings(corpus="text.txt", tokenizer="gpt2")
        found = corpus.prepare(settings, tmp_path, "study.toml")
        (train,) = found.train
        (val,) = found.val
        tokens = np.fromfile(train.file, "<u2")
        n_train = 900
        if before < 900 < before + len(token):
            n_train = before + len(token)
        assert (tokens > 255).sum() == 1
        n_special = (tokens[: train.stop] > 255).sum()
        assert train.stop == n_train - n_special * (len(token) - 1)
        assert val.stop - val.start == len(tokens) - train.stop


def test_bytes_has_no_special_tokens():
    text = f"One.{published.ENDOFTEXT}Two."
    assert Tokenizer("bytes").encode(text).tolist() == list(text.encode())


@pytest.mark.parametrize("name", WITH_SPECIAL)
def test_end_of_text_is_one_token_of_each_encoding(name):
    try:
        tokenizer = Tokenizer(name)
    except UserError:
        pytest.skip(f"{name} is not in TIKTOKEN_CACHE_DIR")
    (token,) = tokenizer.encode(published.ENDOFTEXT)
    assert token == tokenizer.end_of_text == 50256
    text = f"One.\n\n{published.ENDOFTEXT}Two."
    parts = [tokenizer.encode(part).tolist() for part in ("One.\n\n", "Two.")]
    assert tokenizer.encode(text).tolist() == [*parts[0], 50256, *parts[1]]


def test_tokens_of_other_code_are_not_used(tokenizer, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(f"One.{SPECIAL[0]}" * 100)
    settings = DataSettings(corpus="text.txt", tokenizer="gpt2")
    new = corpus.prepare(settings, tmp_path, "study.toml")
    edited = tmp_path / "tokenizers.py"
    edited.write_text(Path(text_cache.tokenizers.__file__).read_text() + "x = 1\n")
    monkeypatch.setattr(text_cache.tokenizers, "__file__", str(edited))
    old = corpus.prepare(settings, tmp_path, "study.toml")
    assert old.train[0].file != new.train[0].file


def test_changed_cached_tokens_are_not_used(tokenizer, tmp_path):
    """A cache of the right size may hold other tokens, also above the vocabulary."""
    (tmp_path / "text.txt").write_text(f"One.{SPECIAL[0]}" * 100)
    settings = DataSettings(corpus="text.txt", tokenizer="gpt2")
    first = corpus.prepare(settings, tmp_path, "study.toml")
    tokens = np.fromfile(first.train[0].file, "<u2")
    for position in (0, len(tokens) // 2, -1):
        changed = tokens.copy()
        changed[position] = 60_000
        changed.tofile(first.train[0].file)
        assert corpus.prepare(settings, tmp_path, "study.toml") == first
        assert np.fromfile(first.train[0].file, "<u2").tolist() == tokens.tolist()
