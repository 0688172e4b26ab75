"""Tokenize a text once, into a cache that every rank maps."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from harness.data import tables, tokenizers
from harness.data.shards import cache_folder, scan, writing_cache
from harness.data.tokenizers import Tokenizer
from harness.errors import StoreError
from harness.provenance.sources import Code
from harness.results.files import read_json, write_bytes, write_json
from harness.results.records import TokenDtype, TokenizedText, TokenSlice

VALIDATION_FRACTION = 0.1  # the last part of a text

_dtype: TypeAdapter[TokenDtype] = TypeAdapter(TokenDtype)


@dataclass(frozen=True)
class Text:
    """A text with its validation part; None: the last tenth of `train`.

    `surprisal` is that of each byte in nats, if it is known.
    """

    train: str
    val: str | None = None
    surprisal: np.ndarray | None = None

    @property
    def sha256(self) -> str:
        """The hash of the text, or of both parts."""
        train_sha256 = hashlib.sha256(self.train.encode("utf-8")).hexdigest()
        if self.val is None:
            return train_sha256
        val_sha256 = hashlib.sha256(self.val.encode("utf-8")).hexdigest()
        return hashlib.sha256(f"train {train_sha256}\nval {val_sha256}\n".encode()).hexdigest()


@dataclass(frozen=True)
class TokenizedSplits:
    """The slices of a tokenized text in the cache."""

    sha256: str
    train: TokenSlice
    val: TokenSlice
    entropy: float | None


def tokenize(key: str, tokenizer: Tokenizer, make: Callable[[], Text]) -> TokenizedSplits:
    """Return the tokens of a text; create them by `make` if `key` is not in the cache."""
    name = f"{key}-{tokenizer.name}-{tokenization_hash()}.json"
    description = cache_folder() / "tokens" / name
    tokens_file = description.with_suffix(".bin")
    try:
        cached = TokenizedText.model_validate(read_json(description))
        if scan(tokens_file, cached.dtype).sha256 == cached.tokens_sha256:
            return _splits(cached, tokens_file)
    except (StoreError, OSError, ValueError):  # not cached, or damaged
        pass
    text = make()
    with writing_cache():
        content = _write(tokens_file, tokenizer, text)
        write_json(description, content)
    return _splits(content, tokens_file)


def _write(tokens_file: Path, tokenizer: Tokenizer, text: Text) -> TokenizedText:
    train = text.train
    val = text.val
    entropy = None
    if val is None:
        cut = tokenizer.boundary(train, int(len(train) * (1 - VALIDATION_FRACTION)))
        train, val = train[:cut], train[cut:]
        if text.surprisal is not None:
            entropy = float(text.surprisal[cut:].mean())
    train_tokens = tokenizer.encode(train)
    val_tokens = tokenizer.encode(val)
    tokens = train_tokens.tobytes() + val_tokens.tobytes()
    write_bytes(tokens_file, tokens)
    return TokenizedText(
        sha256=text.sha256,
        tokens_sha256=hashlib.sha256(tokens).hexdigest(),
        dtype=_dtype.validate_python(train_tokens.dtype.name),
        n_train=len(train_tokens),
        n_val=len(val_tokens),
        entropy=entropy,
    )


def _splits(content: TokenizedText, tokens_file: Path) -> TokenizedSplits:
    whole = TokenSlice(
        file=str(tokens_file),
        dtype=content.dtype,
        start=0,
        stop=content.n_train + content.n_val,
        sha256=content.tokens_sha256,
    )
    train, val = split(whole, content.n_train)
    return TokenizedSplits(content.sha256, train, val, content.entropy)


def split(whole: TokenSlice, n_train: int) -> tuple[TokenSlice, TokenSlice]:
    """Return the first `n_train` tokens of a slice, and the others."""
    cut = whole.start + n_train
    return whole.model_copy(update={"stop": cut}), whole.model_copy(update={"start": cut})


def tokenization_hash() -> str:
    """Return the hash of the code that turns a text into tokens, which a cache must not outlive."""
    files = [Path(__file__), Path(tokenizers.__file__), Path(tables.__file__)]
    return Code.of({file.name: file for file in files}).hash
