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

from harness.data import synthetic
from harness.data.tokenizers import Tokenizer
from harness.errors import Problem, StoreError, UserError
from harness.results.files import read_json, write_bytes, write_json
from harness.results.records import DataSettings, TokenSlice

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SYNTHETIC_BYTES = 1_000_000
VALIDATION_FRACTION = 0.1  # the last part of a text
# Of a larger .bin file, only the size and this many tokens at both ends are hashed.
MAX_HASHED_BYTES = 1 << 28
HASHED_END_TOKENS = 1 << 20

Split = list[TokenSlice]


@dataclass(frozen=True)
class Corpus:
    """A tokenized corpus.

    `token_bytes` is a .npy file with the number of bytes of each token. `entropy` (nats per byte,
    of the validation part) is known only for the synthetic corpus. `note` says why a corpus
    replaces another.
    """

    name: str
    sha256: str
    vocab_size: int
    train: Split
    val: Split
    token_bytes: str
    entropy: float | None = None
    note: str | None = None

    @staticmethod
    def n_tokens(split: Split) -> int:
        """Return the number of tokens of a split."""
        return sum(part.stop - part.start for part in split)


class UnavailableError(UserError):
    """A corpus cannot be downloaded; the fallback corpus may replace it."""


def cache_folder() -> Path:
    """Return the folder of downloaded and tokenized texts."""
    return Path(os.environ.get("ABLATIONS_CACHE") or pooch.os_cache("ablations"))


def prepare(data: DataSettings, folder: Path, study_file: str) -> Corpus:
    """Find the corpus, tokenize it unless it is cached, and return where its tokens are.

    Paths are relative to `folder`. `study_file` is named in errors.

    Raises:
        UserError: the corpus does not exist, or it cannot be downloaded and there is no
            `fallback_corpus`; its hash is not the expected one, it is not UTF-8, or its tokens
            exceed the tokenizer's vocabulary.
    """
    tokenizer = Tokenizer(data.tokenizer, f"{study_file}: data.tokenizer")
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
    path = folder / name
    if path.is_dir() or path.suffix == ".bin":
        return _token_shards(name, path, tokenizer, place)
    if not path.is_file():
        message = (
            f"'{name}': no such file ({path.resolve()}); "
            f"allowed: tinyshakespeare, synthetic, or a path relative to the study file"
        )
        raise UserError([Problem(place, message)])
    text = path.read_bytes()
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        message = (
            f"'{name}': not UTF-8 at byte {error.start}; convert it, e.g. iconv -f latin1 -t utf-8"
        )
        raise UserError([Problem(place, message)]) from error
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
    source_sha256 = hashlib.sha256(Path(synthetic.__file__).read_bytes()).hexdigest()

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
    description = cache_folder() / "tokens" / f"{key}-{tokenizer.name}.json"
    tokens_file = description.with_suffix(".bin")
    try:
        cached = read_json(description)
        n_bytes = 2 * (cached["n_train"] + cached["n_val"])
        if tokens_file.stat().st_size == n_bytes:
            return description
    except (StoreError, OSError, KeyError):
        pass
    text, surprisal = make()
    cut = int(len(text) * (1 - VALIDATION_FRACTION))
    train = tokenizer.encode(text[:cut])
    val = tokenizer.encode(text[cut:])
    write_bytes(tokens_file, train.tobytes() + val.tobytes())
    content = {
        "sha256": hashlib.sha256(text.encode("utf-8")).hexdigest(),
        "n_train": len(train),
        "n_val": len(val),
        "entropy": None if surprisal is None else float(surprisal[cut:].mean()),
    }
    write_json(description, content)
    return description


def _read_description(name: str, description: Path, tokenizer: Tokenizer) -> Corpus:
    content = read_json(description)
    file = str(description.with_suffix(".bin"))
    n_train = content["n_train"]
    n_tokens = n_train + content["n_val"]
    return Corpus(
        name=name,
        sha256=content["sha256"],
        vocab_size=tokenizer.vocab_size,
        train=[TokenSlice(file=file, start=0, stop=n_train)],
        val=[TokenSlice(file=file, start=n_train, stop=n_tokens)],
        token_bytes=str(tokenizer.byte_lengths(cache_folder())),
        entropy=content["entropy"],
    )


def _token_shards(name: str, path: Path, tokenizer: Tokenizer, place: str) -> Corpus:
    """Return the corpus of nanoGPT's token files: uint16 without a header.

    `path` is a folder with `*train*.bin` and `*val*.bin`, or one file, whose last part is for
    validation.
    """
    if path.is_dir():
        train_files = sorted(path.glob("*train*.bin"))
        val_files = sorted(path.glob("*val*.bin"))
        if not train_files or not val_files:
            message = f"'{name}': the folder must hold *train*.bin and *val*.bin files of uint16"
            raise UserError([Problem(place, message)])
    elif path.is_file():
        train_files = [path]
        val_files = []
    else:
        raise UserError([Problem(place, f"'{name}': no such file ({path.resolve()})")])
    sha = hashlib.sha256()
    problems = []
    for file in train_files + val_files:
        problem = _hash_token_file(file, tokenizer, sha.update)
        if problem:
            problems.append(Problem(place, f"{file}: {problem}"))
    if problems:
        raise UserError(problems)
    train = [_whole_file(file) for file in train_files]
    val = [_whole_file(file) for file in val_files]
    if not val:
        (whole,) = train
        cut = int(whole.stop * (1 - VALIDATION_FRACTION))
        train = [whole.model_copy(update={"stop": cut})]
        val = [whole.model_copy(update={"start": cut})]
    return Corpus(
        name=name,
        sha256=sha.hexdigest(),
        vocab_size=tokenizer.vocab_size,
        train=train,
        val=val,
        token_bytes=str(tokenizer.byte_lengths(cache_folder())),
    )


def _hash_token_file(
    file: Path, tokenizer: Tokenizer, update_hash: Callable[[bytes], object]
) -> str | None:
    """Add a file of tokens to a hash; return why it is invalid, None if it is valid."""
    n_bytes = file.stat().st_size
    n_tokens = n_bytes // 2
    tokens = np.zeros(0, np.uint16)
    if n_tokens:  # an empty file cannot be mapped
        tokens = np.memmap(file, dtype=np.uint16, mode="r", shape=(n_tokens,))
    if tokens.nbytes > MAX_HASHED_BYTES:
        tokens = np.concatenate((tokens[:HASHED_END_TOKENS], tokens[-HASHED_END_TOKENS:]))
    update_hash(f"{n_tokens}".encode() + tokens.tobytes())
    if n_bytes % 2:
        return f"{n_bytes} bytes; uint16 tokens take two each"
    if len(tokens) and tokens.max() >= tokenizer.vocab_size:
        vocabulary = f"the tokenizer '{tokenizer.name}' has {tokenizer.vocab_size}"
        return f"holds token {tokens.max()}, {vocabulary}"
    return None


def _whole_file(file: Path) -> TokenSlice:
    return TokenSlice(file=str(file.resolve()), start=0, stop=file.stat().st_size // 2)
