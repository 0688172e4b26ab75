"""Find a corpus, identify it by its hash, and tokenize it into files that every rank maps.

The launcher tokenizes once, into a cache: `$ABLATIONS_CACHE`, or the user's cache folder.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pooch

from harness.data import formats, synthetic, tokenizers
from harness.data.batches import Tokens
from harness.data.documents import separator_of
from harness.data.shards import cache_folder, read_shards, scan
from harness.data.tokenizers import Tokenizer
from harness.errors import Problem, StoreError, UserError
from harness.provenance.sources import Code, syntax_hash
from harness.results.files import read_json, write_bytes, write_json
from harness.results.records import DataSettings, TokenizedText, TokenSlice

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SYNTHETIC_BYTES = 1_000_000
VALIDATION_FRACTION = 0.1  # the last part of a text

Split = list[TokenSlice]


@dataclass(frozen=True)
class Corpus:
    """A tokenized corpus.

    `token_bytes` is a .npy file with the number of bytes of each token. `entropy` (nats per byte,
    of the validation part) is known only for the synthetic corpus. `note` says why a corpus
    replaces another, or that headers are skipped. `separator` is the token that begins a document,
    if attention is masked at the boundaries of documents.
    """

    name: str
    sha256: str
    vocab_size: int
    train: Split
    val: Split
    token_bytes: str
    entropy: float | None = None
    note: str | None = None
    separator: int | None = None

    @staticmethod
    def n_tokens(split: Split) -> int:
        """Return the number of tokens of a split."""
        return sum(part.stop - part.start for part in split)


class UnavailableError(UserError):
    """A corpus cannot be downloaded; the fallback corpus may replace it."""


def prepare(data: DataSettings, folder: Path, study_file: str) -> Corpus:
    """Find the corpus, tokenize it unless it is cached, and return where its tokens are.

    Paths are relative to `folder`. `study_file` is named in errors.

    Raises:
        UserError: the corpus does not exist, or it cannot be downloaded and there is no
            `fallback_corpus`; its hash is not the expected one, it is not UTF-8, its tokens exceed
            the tokenizer's vocabulary, or it has no documents to mask.
    """
    tokenizer = Tokenizer(data.tokenizer, f"{study_file}: data.tokenizer")
    corpus = _find_or_replace(data, tokenizer, folder, study_file)
    if data.documents == "cross":
        return corpus
    place = f"{study_file}: data.documents"
    separator = separator_of(tokenizer, corpus.name, Tokens(corpus.train), place)
    return replace(corpus, separator=separator)


def _find_or_replace(
    data: DataSettings, tokenizer: Tokenizer, folder: Path, study_file: str
) -> Corpus:
    """Return the corpus, or its fallback if it cannot be downloaded."""
    try:
        return _find(data.corpus, tokenizer, folder, f"{study_file}: data.corpus")
    except UnavailableError as error:
        if data.fallback_corpus is None:
            raise
        fallback = _find(
            data.fallback_corpus, tokenizer, folder, f"{study_file}: data.fallback_corpus"
        )
        reason = error.problems[0].message
        note = f"{data.corpus} is not available, {data.fallback_corpus} replaces it ({reason})"
        return replace(fallback, note=note)


def _find(name: str, tokenizer: Tokenizer, folder: Path, place: str) -> Corpus:
    if name == "synthetic":
        return _synthetic(tokenizer)
    if name == "tinyshakespeare":
        return _text(name, _read_tinyshakespeare(place), tokenizer)
    try:
        return _read(name, folder / name, tokenizer, place)
    except (OSError, ValueError) as error:  # of a path that is too long, or not permitted
        raise UserError([Problem(place, f"'{name}': cannot be read ({error})")]) from error


def _read(name: str, path: Path, tokenizer: Tokenizer, place: str) -> Corpus:
    """Return the corpus in a file or folder."""
    if path.is_dir() or path.suffix.lower() == ".bin":
        return _token_shards(name, path, tokenizer, place)
    if not path.is_file():
        message = (
            f"'{name}': no such file ({path.resolve()}); "
            f"allowed: tinyshakespeare, synthetic, or a path relative to the study file"
        )
        raise UserError([Problem(place, message)])
    problem = formats.problem_of_suffix(path)
    text = b""
    if problem is None:
        text = path.read_bytes()
        problem = formats.problem_of_text(text)
    if problem is not None:
        raise UserError([Problem(place, f"'{name}': {problem}")])
    return _text(name, text, tokenizer)


def _read_tinyshakespeare(place: str) -> bytes:
    """Return the text from the folder `$ABLATIONS_DATA`, from the cache, or from its address."""
    data_folder = os.environ.get("ABLATIONS_DATA")
    if data_folder:
        file = Path(data_folder) / "tinyshakespeare.txt"
        if file.is_file():
            text = file.read_bytes()
            sha256 = hashlib.sha256(text).hexdigest()
            if sha256 != SHA256:
                message = f"{file}: SHA-256 {sha256}, expected {SHA256}; replace it by {URL}"
                raise UserError([Problem(place, message)])
            return text
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        downloaded = pooch.retrieve(
            URL,
            known_hash=SHA256,
            path=cache_folder(),
            fname="tinyshakespeare.txt",
            downloader=pooch.HTTPDownloader(timeout=20),
        )
    except ValueError as error:  # another hash; pooch has removed the file
        message = f"{URL}: the download is not the file expected and was not kept: {error}"
        raise UserError([Problem(place, message)]) from error
    except OSError as error:
        message = (
            f"'tinyshakespeare': not in $ABLATIONS_DATA, and {URL} cannot be reached "
            f"({type(error).__name__}); download it elsewhere, save it as tinyshakespeare.txt in a "
            f'folder and set ABLATIONS_DATA to that folder, or set fallback_corpus = "synthetic"'
        )
        raise UnavailableError([Problem(place, message)]) from error
    return Path(downloaded).read_bytes()


def _text(name: str, text: bytes, tokenizer: Tokenizer) -> Corpus:
    sha256 = hashlib.sha256(text).hexdigest()
    file = _tokenize(sha256[:32], tokenizer, lambda: (text.decode("utf-8"), None))
    return _read_description(name, file, tokenizer)


def _synthetic(tokenizer: Tokenizer) -> Corpus:
    source_sha256 = syntax_hash(Path(synthetic.__file__))

    def make() -> tuple[str, np.ndarray]:
        corpus = synthetic.generate(SYNTHETIC_BYTES)
        return corpus.text.decode("ascii"), corpus.surprisal

    file = _tokenize(f"synthetic-{source_sha256[:32]}", tokenizer, make)
    return _read_description("synthetic", file, tokenizer)


def _tokenize(
    key: str, tokenizer: Tokenizer, make: Callable[[], tuple[str, np.ndarray | None]]
) -> Path:
    """Return the file that describes a tokenized text; create it if it is not in the cache.

    `make` returns the text and, if it is known, the surprisal of each of its bytes in nats.
    """
    name = f"{key}-{tokenizer.name}-{_tokenization_hash()}.json"
    description = cache_folder() / "tokens" / name
    tokens_file = description.with_suffix(".bin")
    try:
        cached = TokenizedText.model_validate(read_json(description))
        if scan(tokens_file).sha256 == cached.tokens_sha256:
            return description
    except (StoreError, OSError, ValueError):  # not cached, or damaged
        pass
    text, surprisal = make()
    cut = tokenizer.boundary(text, int(len(text) * (1 - VALIDATION_FRACTION)))
    train = tokenizer.encode(text[:cut])
    val = tokenizer.encode(text[cut:])
    tokens = train.tobytes() + val.tobytes()
    write_bytes(tokens_file, tokens)
    content = TokenizedText(
        sha256=hashlib.sha256(text.encode("utf-8")).hexdigest(),
        tokens_sha256=hashlib.sha256(tokens).hexdigest(),
        n_train=len(train),
        n_val=len(val),
        entropy=None if surprisal is None else float(surprisal[cut:].mean()),
    )
    write_json(description, content)
    return description


def _tokenization_hash() -> str:
    """Return the hash of the code that turns a text into tokens, which a cache must not outlive."""
    files = [Path(__file__), Path(tokenizers.__file__)]
    return Code.of({file.name: file for file in files}).hash


def _read_description(name: str, description: Path, tokenizer: Tokenizer) -> Corpus:
    content = TokenizedText.model_validate(read_json(description))
    whole = TokenSlice(
        file=str(description.with_suffix(".bin")),
        start=0,
        stop=content.n_train + content.n_val,
        sha256=content.tokens_sha256,
    )
    train, val = _split(whole, content.n_train)
    return Corpus(
        name=name,
        sha256=content.sha256,
        vocab_size=tokenizer.vocab_size,
        train=train,
        val=val,
        token_bytes=str(tokenizer.byte_lengths(cache_folder())),
        entropy=content.entropy,
    )


def _split(whole: TokenSlice, n_train: int) -> tuple[Split, Split]:
    """Return the first `n_train` tokens of a slice, and the others."""
    cut = whole.start + n_train
    train = whole.model_copy(update={"stop": cut})
    val = whole.model_copy(update={"start": cut})
    return [train], [val]


def _token_shards(name: str, path: Path, tokenizer: Tokenizer, place: str) -> Corpus:
    """Return the corpus of token files (see `shards`).

    `path` is a folder with `*train*.bin` and `*val*.bin`, or one file, whose last part is for
    validation.
    """
    if path.is_dir():
        train_files, val_files = _shard_files(name, path, place)
    elif path.is_file():
        train_files = [path]
        val_files = []
    else:
        raise UserError([Problem(place, f"'{name}': no such file ({path.resolve()})")])
    slices = read_shards(train_files + val_files, tokenizer, place)
    train = slices[: len(train_files)]
    val = slices[len(train_files) :]
    repeated = {part.sha256 for part in train} & {part.sha256 for part in val}
    if repeated:
        files = [part.file for part in slices if part.sha256 in repeated]
        message = f"'{name}': training and validation have the same content: {', '.join(files)}"
        raise UserError([Problem(place, f"{message}; validate on other text")])
    sha = hashlib.sha256()
    for split, parts in (("train", train), ("val", val)):
        for part in parts:
            sha.update(f"{split} {part.sha256}\n".encode())
    n_headers = sum(part.start > 0 for part in slices)
    note = f"{name}: the header of llm.c is skipped in {n_headers} token files"
    if not val:
        (whole,) = train
        train, val = _split(whole, int((whole.stop - whole.start) * (1 - VALIDATION_FRACTION)))
    return Corpus(
        name=name,
        sha256=sha.hexdigest(),
        vocab_size=tokenizer.vocab_size,
        train=train,
        val=val,
        token_bytes=str(tokenizer.byte_lengths(cache_folder())),
        note=note if n_headers else None,
    )


def _shard_files(name: str, folder: Path, place: str) -> tuple[list[Path], list[Path]]:
    """Return the files of training and of validation tokens in a folder."""
    train_files = sorted(folder.glob("*train*.bin"))
    val_files = sorted(folder.glob("*val*.bin"))
    message = None
    both = set(train_files) & set(val_files)
    if both:
        names = ", ".join(sorted(file.name for file in both))
        message = f"{names} matches *train*.bin and *val*.bin; rename it, so that it is one of them"
    elif not train_files or not val_files:
        message = "the folder must hold *train*.bin and *val*.bin files of uint16"
        problems = filter(None, map(formats.problem_of_suffix, sorted(folder.iterdir())))
        kind = next(problems, None)
        if kind is not None:
            message += f"; a file in it {kind}"
    if message is not None:
        raise UserError([Problem(place, f"'{name}': {message}")])
    return train_files, val_files
