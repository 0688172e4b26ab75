"""Masked documents need a token that separates them, and a text that contains it."""

import numpy as np
import pytest

from harness.data import corpus, documents
from harness.data.batches import Tokens
from harness.data.documents import contains, ends_of, in_separators
from harness.data.tokenizers import NAMES
from harness.errors import UserError
from harness.results.records import DataSettings, TokenSlice

SEPARATOR = 256
TEXT = "One.<|endoftext|>Two words.<|endoftext|>Three." * 20


@pytest.fixture(autouse=True)
def cache(encoding_of_bytes, tmp_path, monkeypatch):
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
    assert found["mask"].separator == [SEPARATOR]
    assert found["cross"].separator is None
    assert found["cross"].train == found["mask"].train


def test_bytes_spell_the_separator(tmp_path):
    """A study without a download must be able to mask, too."""
    (tmp_path / "text.txt").write_text(TEXT)
    found = prepare(tmp_path, corpus="text.txt", documents="mask")
    assert found.separator == list(b"<|endoftext|>")


def test_text_without_separators_is_refused(tmp_path):
    (tmp_path / "text.txt").write_text("One text, and no other. " * 100)
    with pytest.raises(UserError, match=r"training part of 'text\.txt' has no <"):
        prepare(tmp_path, corpus="text.txt", tokenizer="gpt2", documents="mask")


@pytest.mark.parametrize("position", range(10))
@pytest.mark.parametrize("n", [1, 3])
def test_separator_is_found_in_any_shard_and_chunk(tmp_path, monkeypatch, n, position):
    """A large corpus would be refused if only its beginning were searched."""
    monkeypatch.setattr(documents, "CHUNK", 5)
    separator = [7, 8, 9][:n]
    tokens = np.full(13, 9, np.uint16)
    tokens[0] = 7
    slices = []
    for kind in ("without", "with"):
        if kind == "with":
            tokens[position : position + n] = separator
        tokens.tofile(tmp_path / f"{kind}.bin")
        file = str(tmp_path / f"{kind}.bin")
        ranges = ((0, 7), (7, 13))
        slices.append([TokenSlice(file=file, start=a, stop=b) for a, b in ranges])
    without, including = map(Tokens, slices)
    assert contains(including, separator)
    assert contains(without, separator) == (n == 1)


def test_ends_of_sequences_are_those_that_a_search_finds():
    """A boundary one token off would let words of one document into another."""
    generator = np.random.default_rng(0)
    text = generator.integers(0, 2, (20, 30)).astype(np.uint16)
    for sequence in ([1], [0, 1], [1, 1, 0], [0] * 7):
        expected = np.zeros(text.shape, bool)
        for row, column in np.ndindex(text.shape):
            before = text[row, max(0, column + 1 - len(sequence)) : column + 1]
            expected[row, column] = before.tolist() == sequence
        assert (ends_of(text, sequence) == expected).all()
    assert not ends_of(text[:, :3], [0] * 7).any()


@pytest.mark.parametrize("length", [1, 2, 5, 11])
def test_targets_in_separators_are_found_where_windows_cut_them(tmp_path, length):
    """Half of a separator would count as text, with the nats of no text."""
    separator = [1, 2, 1]
    tokens = np.array([1, 2, 1, 2, 1, 5, 1, 2, 5, 1, 2, 1], np.uint16)
    is_separator = [True] * 5 + [False] * 4 + [True] * 3
    tokens.tofile(tmp_path / "tokens.bin")
    file = str(tmp_path / "tokens.bin")
    slices = [TokenSlice(file=file, start=a, stop=b) for a, b in ((0, 4), (4, 12))]
    offsets = np.arange(len(tokens) - length)
    found = in_separators(Tokens(slices), offsets, length, separator)
    expected = [is_separator[offset + 1 : offset + 1 + length] for offset in offsets]
    assert found.tolist() == expected
