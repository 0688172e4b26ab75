"""Bits per byte compare tokenizers: the same text must have the same bytes under each of them."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import tiny_spec
from torch import nn

from harness.data import corpus
from harness.data.batches import Tokens, evaluation_offsets
from harness.data.tables import SEPARATOR
from harness.data.tokenizers import Tokenizer
from harness.errors import UserError
from harness.results.records import CorpusPart, DataSettings
from harness.results.run import Run
from harness.training.evaluation import Evaluation

REAL = Path(os.environ.get("ABLATIONS_DATA") or Path(__file__).parents[3] / "shared/data").resolve()
SEQ_LEN = 64
# Without the characters of the separator, so that the model below knows where it is.
DOCUMENTS = [
    "GRÜßE AUS KÖLN, 東京と大阪. " * 2,
    "ÇA VA? 😀😀 PÜR €5 — «½Ü» BIM. " * 2,
    "PLAIN WÖRS, AN NÖHIG ELS. 0123456789 " * 2,
]
SEPARATED = SEPARATOR.join(DOCUMENTS * 24)
LENGTHS = [None, 640]  # evaluated tokens


class Uniform(nn.Module):
    """Every token of the vocabulary is equally likely."""

    def __init__(self, vocab_size):
        super().__init__()
        self.nats = math.log(vocab_size)

    def forward(self, tokens_BT, targets_BT):
        return torch.full(targets_BT.shape, self.nats)


class Informed(nn.Module):
    """Bytes of the text cost 1 nat each; separators, and the bytes that spell them, 1000 nats."""

    def __init__(self, token_bytes):
        super().__init__()
        nats = np.where(token_bytes > 0, token_bytes, 1000)
        if len(nats) == 256:
            nats[list(SEPARATOR.encode())] = 1000
        self.nats = torch.from_numpy(nats).float()

    def forward(self, tokens_BT, targets_BT):
        return self.nats[targets_BT]


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Return a function that prepares a text, or Shakespeare, with a tokenizer."""
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    if (REAL / "tinyshakespeare.txt").exists():
        monkeypatch.setenv("ABLATIONS_DATA", str(REAL))
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(REAL / "tiktoken_cache"))

    def prepare(tokenizer, text=None):
        try:
            Tokenizer(tokenizer)
        except UserError:
            pytest.skip(f"{tokenizer} is not in TIKTOKEN_CACHE_DIR")
        name = "tinyshakespeare"
        if text is not None:
            name = "text.txt"
            (tmp_path / name).write_text(text, encoding="utf-8")
        elif not (REAL / "tinyshakespeare.txt").exists():
            pytest.skip("tiny Shakespeare is not available")
        settings = DataSettings(corpus=name, tokenizer=tokenizer)
        return corpus.prepare(settings, tmp_path, "study.toml")

    return prepare


def evaluate(folder, ranks, prepared, tokenizer, model, split, eval_tokens, **launch):
    """Return the recorded evaluation of a model on a part of a corpus."""
    spec = tiny_spec(folder, eval_tokens=eval_tokens or "all")
    spec = spec.model_copy(
        update={
            "model": spec.model.model_copy(
                update={"seq_len": SEQ_LEN, "vocab_size": prepared.vocab_size}
            ),
            "data": spec.data.model_copy(update={"tokenizer": tokenizer}),
            "launch": spec.launch.model_copy(
                update={"val_tokens": split, "token_bytes": prepared.token_bytes, **launch}
            ),
        }
    )
    folder = folder / f"{tokenizer}-{eval_tokens}"
    folder.mkdir()
    run = Run(folder)
    Evaluation(run, spec, ranks)(model, step=0, train_s=0.0)
    (line,) = run.evals()
    return line


def covered(tokens, eval_tokens):
    """Return the windows of targets that are evaluated, each with its bytes of text."""
    n_all = (len(tokens) - 1) // SEQ_LEN
    n = n_all if eval_tokens is None else eval_tokens // SEQ_LEN
    starts = [i * n_all // n * SEQ_LEN for i in range(n)]
    return [tokens[start + 1 : start + 1 + SEQ_LEN] for start in starts]


@pytest.mark.parametrize("eval_tokens", LENGTHS)
@pytest.mark.parametrize("tokenizer", ["bytes", "gpt2"])
def test_uniform_model_has_the_bits_of_its_vocabulary(
    tmp_path, ranks, prepared, tokenizer, eval_tokens
):
    """log2(V) bits for each token, over the bytes that the tokens decode to."""
    found = prepared(tokenizer)
    vocab_size = {"bytes": 256, "gpt2": 50_257}[tokenizer]
    model = Uniform(vocab_size)
    line = evaluate(tmp_path, ranks, found, tokenizer, model, found.val, eval_tokens)
    tokens = Tokens(found.val)
    windows = covered(tokens.window(0, len(tokens)), eval_tokens)
    text = Tokenizer(tokenizer)
    n_bytes = sum(len(text.decode_bytes(window)) for window in windows)
    bits = math.log2(vocab_size) * SEQ_LEN * len(windows) / n_bytes
    assert line.bits_per_byte == pytest.approx(bits, rel=1e-6)
    assert line.val_loss == pytest.approx(math.log(vocab_size), rel=1e-6)


@pytest.mark.parametrize("eval_tokens", LENGTHS)
@pytest.mark.parametrize("tokenizer", ["bytes", "gpt2"])
def test_one_nat_per_byte_is_the_same_under_every_tokenizer(
    tmp_path, ranks, prepared, tokenizer, eval_tokens
):
    """Windows are cut inside characters and separators; only bytes of the text may count."""
    found = prepared(tokenizer, SEPARATED)
    model = Informed(np.load(found.token_bytes))
    line = evaluate(tmp_path, ranks, found, tokenizer, model, found.train, eval_tokens)
    assert line.bits_per_byte == pytest.approx(1 / math.log(2), rel=1e-6)
    assert line.val_loss > 1000 / SEQ_LEN


@pytest.mark.parametrize("tokenizer", ["bytes", "gpt2"])
def test_all_windows_cover_the_same_text_but_for_one_window(prepared, tokenizer):
    """Where windows are a sample, tokenizers are evaluated on other text; `all` covers all of it.

    What is missing is the first token, which nothing predicts, and less than a window at the end.
    """
    found = prepared(tokenizer, SEPARATED)
    tokens = Tokens(found.train)
    stream = tokens.window(0, len(tokens))
    offsets = evaluation_offsets(len(tokens), SEQ_LEN, None)
    _, targets = tokens.windows(offsets, SEQ_LEN)
    n_first = 1
    assert targets.flatten().tolist() == stream[n_first : n_first + targets.numel()].tolist()
    assert len(stream) - n_first - targets.numel() < SEQ_LEN


def test_mixture_weights_its_corpora_equally_under_every_tokenizer(tmp_path, ranks, prepared):
    """A corpus with many tokens per byte would count more, and the tokenizer decide how much."""
    found = [prepared("gpt2", DOCUMENTS[0] * 80), prepared("gpt2", DOCUMENTS[2] * 80)]
    parts = [CorpusPart(path="a", weight=3.0), CorpusPart(path="b", weight=1.0)]
    slices = []
    for i, each in enumerate(found):
        slices += [part.model_copy(update={"part": i}) for part in each.val]
    model = Uniform(50_257)
    mixture = {"mixture": parts}
    line = evaluate(tmp_path, ranks, found[0], "gpt2", model, slices, None, **mixture)
    first, second = (part.bits_per_byte for part in line.by_corpus)
    assert first > 1.2 * second
    assert line.bits_per_byte == pytest.approx(0.75 * first + 0.25 * second)
