"""Where the text comes from, what identifies it, and its tokens as files that every rank maps into memory.

Tokenising is done once, by the launcher, into a cache: `$ABLATIONS_CACHE`, else the user's cache folder.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pooch

from harness.data import synthetic
from harness.data.tokenizers import Tokenizer
from harness.errors import Problem, UserError
from harness.results.files import StoreError, read_json, write_bytes, write_json
from harness.results.records import DataSettings, TokenSlice

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SYNTHETIC_BYTES = 1_000_000
HASHED_WHOLE = (
    1 << 28
)  # bytes; of larger .bin files, only their size and both ends go into the hash
VALIDATION = 0.1  # the last part of a text


@dataclass(frozen=True)
class Corpus:
    """Tokens ready to be read. `entropy` (nats per byte, of the validation part) is known for the synthetic corpus."""

    name: str
    sha256: str
    vocab_size: int
    train: list[TokenSlice]
    val: list[TokenSlice]
    token_bytes: str
    entropy: float | None = None
    note: str | None = None

    @staticmethod
    def n_tokens(split: list[TokenSlice]) -> int:
        """Return how many tokens a split has."""
        return sum(part.stop - part.start for part in split)


class UnavailableError(UserError):
    """A corpus cannot be had here; another may stand in."""


def cache() -> Path:
    """Return the folder for what was downloaded and tokenised."""
    return Path(os.environ.get("ABLATIONS_CACHE") or pooch.os_cache("ablations"))


def prepare(data: DataSettings, folder: Path, place: str) -> Corpus:
    """Find the corpus (paths are relative to `folder`), tokenise it unless that has been done, and tell where it lies.

    Raises:
        UserError: missing and no `fallback_corpus` is named, hash not as expected, not UTF-8, tokens that do not fit the
            tokenizer's vocabulary; `place` names the study file.
    """
    tokenizer = Tokenizer(data.tokenizer, f"{place}: data.tokenizer")
    try:
        return _find(data.corpus, tokenizer, folder, f"{place}: data.corpus")
    except UnavailableError as error:
        if data.fallback_corpus is None:
            raise
        stand_in = _find(data.fallback_corpus, tokenizer, folder, f"{place}: data.fallback_corpus")
        note = f"{data.corpus} cannot be had here, {data.fallback_corpus} stands in ({error.problems[0].message})"
        return Corpus(**stand_in.__dict__ | {"note": note})


def _find(name: str, tokenizer: Tokenizer, folder: Path, place: str) -> Corpus:
    if name == "synthetic":
        return _synthetic(tokenizer)
    if name == "tinyshakespeare":
        return _text(name, _tinyshakespeare(place), tokenizer)
    path = folder / name
    if path.is_dir() or path.suffix == ".bin":
        return _shards(name, path, tokenizer, place)
    if not path.is_file():
        raise UnavailableError(
            [
                Problem(
                    place,
                    f"'{name}': no such file ({path.resolve()}); allowed: tinyshakespeare, synthetic, or a path",
                )
            ]
        )
    text = path.read_bytes()
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        message = (
            f"'{name}': not UTF-8 at byte {error.start}; convert it, e.g. iconv -f latin1 -t utf-8"
        )
        raise UserError([Problem(place, message)]) from error
    return _text(name, text, tokenizer)


def _tinyshakespeare(place: str) -> bytes:
    given = Path(os.environ.get("ABLATIONS_DATA", "")) / "tinyshakespeare.txt"
    if os.environ.get("ABLATIONS_DATA") and given.is_file():
        text = given.read_bytes()
        found = hashlib.sha256(text).hexdigest()
        if found != SHA256:
            message = (
                f"{given}: SHA-256 {found}, expected {SHA256}; remove it, or get it from {URL}"
            )
            raise UserError([Problem(place, message)])
        return text
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        downloader = pooch.HTTPDownloader(timeout=20)
        file = pooch.retrieve(
            URL, known_hash=SHA256, path=cache(), fname="tinyshakespeare.txt", downloader=downloader
        )
    except ValueError as error:  # pooch has removed what it got
        message = f"{URL}: the download is not the file expected and was not kept: {error}"
        raise UserError([Problem(place, message)]) from error
    except OSError as error:
        message = (
            f"'tinyshakespeare': not in $ABLATIONS_DATA and no way to {URL} ({type(error).__name__}); get it by other "
            f"means, put it in a folder as tinyshakespeare.txt and name the folder in ABLATIONS_DATA, or set "
            f'fallback_corpus = "synthetic"'
        )
        raise UnavailableError([Problem(place, message)]) from error
    return Path(file).read_bytes()


def _text(name: str, text: bytes, tokenizer: Tokenizer) -> Corpus:
    sha256 = hashlib.sha256(text).hexdigest()
    file = _cached(f"{sha256[:32]}", tokenizer, lambda: (text.decode("utf-8"), None))
    return _corpus(name, file, tokenizer)


def _synthetic(tokenizer: Tokenizer) -> Corpus:
    version = hashlib.sha256(Path(synthetic.__file__).read_bytes()).hexdigest()[:32]

    def make() -> tuple[str, np.ndarray]:
        corpus = synthetic.generate(SYNTHETIC_BYTES)
        return corpus.text.decode("ascii"), corpus.surprisal

    return _corpus("synthetic", _cached(f"synthetic-{version}", tokenizer, make), tokenizer)


def _cached(
    key: str, tokenizer: Tokenizer, make: Callable[[], tuple[str, np.ndarray | None]]
) -> Path:
    """Return the file that describes a tokenised text, made first where it is not there yet."""
    described = cache() / "tokens" / f"{key}-{tokenizer.name}.json"
    tokens_file = described.with_suffix(".bin")
    try:
        size = 2 * (read_json(described)["n_train"] + read_json(described)["n_val"])
        if tokens_file.stat().st_size == size:
            return described
    except (StoreError, OSError, KeyError):
        pass
    text, surprisal = make()
    cut = int(len(text) * (1 - VALIDATION))
    train, val = (tokenizer.encode(part) for part in (text[:cut], text[cut:]))
    write_bytes(tokens_file, train.tobytes() + val.tobytes())
    entropy = None if surprisal is None else float(surprisal[cut:].mean())
    sha256 = hashlib.sha256(text.encode("utf-8")).hexdigest()
    write_json(
        described, {"sha256": sha256, "n_train": len(train), "n_val": len(val), "entropy": entropy}
    )
    return described


def _corpus(name: str, described: Path, tokenizer: Tokenizer) -> Corpus:
    about = read_json(described)
    file, n_train, n_val = str(described.with_suffix(".bin")), about["n_train"], about["n_val"]
    return Corpus(
        name=name,
        sha256=about["sha256"],
        vocab_size=tokenizer.vocab_size,
        train=[TokenSlice(file=file, start=0, stop=n_train)],
        val=[TokenSlice(file=file, start=n_train, stop=n_train + n_val)],
        token_bytes=str(tokenizer.byte_lengths(cache())),
        entropy=about["entropy"],
    )


def _shards(name: str, path: Path, tokenizer: Tokenizer, place: str) -> Corpus:
    """A folder with `train*.bin` and `val*.bin` (uint16, no header), or one file whose last part validates."""
    files = (
        {split: sorted(path.glob(f"*{split}*.bin")) for split in ("train", "val")}
        if path.is_dir()
        else {}
    )
    if not path.is_dir() and not path.is_file():
        raise UnavailableError([Problem(place, f"'{name}': no such file ({path.resolve()})")])
    if files and not all(files.values()):
        raise UserError(
            [
                Problem(
                    place,
                    f"'{name}': the folder must hold *train*.bin and *val*.bin files of uint16",
                )
            ]
        )
    all_files = files["train"] + files["val"] if files else [path]
    sha, problems = hashlib.sha256(), []
    for file in all_files:
        n = file.stat().st_size // 2
        tokens = (
            np.memmap(file, dtype=np.uint16, mode="r", shape=(n,)) if n else np.zeros(0, np.uint16)
        )
        ends = (
            tokens
            if tokens.nbytes <= HASHED_WHOLE
            else np.concatenate((tokens[: 1 << 20], tokens[-(1 << 20) :]))
        )
        sha.update(f"{len(tokens)}".encode() + ends.tobytes())
        if file.stat().st_size % 2:
            problems.append(
                Problem(place, f"{file}: {file.stat().st_size} bytes; uint16 tokens take two each")
            )
        elif len(ends) and ends.max() >= tokenizer.vocab_size:
            limit = f"'{tokenizer.name}' has {tokenizer.vocab_size}"
            problems.append(
                Problem(place, f"{file}: holds token {ends.max()}, the tokenizer {limit}")
            )
    if problems:
        raise UserError(problems)

    def whole(split: list[Path]) -> list[TokenSlice]:
        return [
            TokenSlice(file=str(f.resolve()), start=0, stop=f.stat().st_size // 2) for f in split
        ]

    if files:
        train, val = whole(files["train"]), whole(files["val"])
    else:
        n = path.stat().st_size // 2
        cut = int(n * (1 - VALIDATION))
        train, val = (
            [TokenSlice(file=str(path.resolve()), start=start, stop=stop)]
            for start, stop in ((0, cut), (cut, n))
        )
    return Corpus(
        name=name,
        sha256=sha.hexdigest(),
        vocab_size=tokenizer.vocab_size,
        train=train,
        val=val,
        token_bytes=str(tokenizer.byte_lengths(cache())),
    )
