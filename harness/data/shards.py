"""Token files: little-endian uint16, without a header (nanoGPT) or with llm.c's.

A file is hashed and checked whole. The result is cached by the file's size and times, so that a
file that has not changed is read once.
"""

import codecs
import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pooch

from harness.data import formats
from harness.data.batches import TOKEN_DTYPE as DTYPE
from harness.data.tokenizers import Tokenizer
from harness.errors import Problem, StoreError, UserError
from harness.results.files import read_json, write_json
from harness.results.records import TokenFileScan, TokenSlice

REMEDY = "write the tokens as numpy.asarray(tokens).astype('<u2').tofile('train.bin')"
CHUNK_BYTES = 1 << 24
SAMPLE_BYTES = 1 << 18
# A file may change again within the resolution of its times; a younger scan is not cached.
SETTLED_S = 2.0

# llm.c and modded-nanogpt: 256 int32, of which the first are the magic number, the version and the
# number of tokens.
HEADER_BYTES = 1024
LLMC_MAGIC = 20240520
LLMC_VERSION = 1
LLAMA_MAGIC = 20240801  # uint32 tokens
MIN_HEADER_ZEROS = 0.9  # of the header's values

OTHER_DTYPES = {  # the widest first: int64 is also a sequence of int32
    "int64": ("<i8", ">i8"),
    "float64": ("<f8", ">f8"),
    "int32": ("<i4", ">i4"),
    "float32": ("<f4", ">f4"),
    "float16": ("<f2", ">f2"),
}
MIN_VALUES = 8  # that must all be tokens of another type to refuse it
# Tokens that a check needs: 32 low bytes below 128 by chance, an alphabet, two distributions.
MIN_SAMPLE = 32
MIN_ALPHABET_SAMPLE = 256
MIN_DISTRIBUTION_SAMPLE = 4096
MAX_CONTROL_FRACTION = 0.15  # of tokens of the tokenizer `bytes`; random bytes have 0.11
MIN_DISTANCE = 0.15  # between the frequencies of low and high bytes; uniform tokens have 0.23


def cache_folder() -> Path:
    """Return the folder of downloaded and tokenized texts, and of the hashes of token files."""
    return Path(os.environ.get("ABLATIONS_CACHE") or pooch.os_cache("ablations"))


def read_shards(files: Sequence[Path], tokenizer: Tokenizer, place: str) -> list[TokenSlice]:
    """Return the tokens of each file.

    Raises:
        UserError: a file is unreadable, does not hold uint16 tokens, or holds a token that is not
            the tokenizer's. `place` is named.
    """
    slices = []
    problems = []
    folders = {file.parent for file in files}
    for folder in sorted(folders):
        for meta in sorted(folder.glob("*meta*.pkl")):
            message = (
                "describes the alphabet of character tokens, and the study has the tokenizer "
                f"'{tokenizer.name}'; name the text itself as the corpus, or move this file away "
                "if the tokens are the tokenizer's"
            )
            problems.append(Problem(place, f"{meta}: {message}"))
    if problems:
        raise UserError(problems)
    for file in files:
        try:
            problem = _problem(file, tokenizer)
            if problem is None:
                slices.append(_slice(file))
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        if problem is not None:
            problems.append(Problem(place, f"{file}: {problem}"))
    if problems:
        raise UserError(problems)
    return slices


def verify(slices: Iterable[TokenSlice]) -> None:
    """Check that the files of a run are the ones that it was planned with.

    Raises:
        UserError: a file is missing, is shorter, or has other content.
    """
    problems = {}
    for tokens in slices:
        file = Path(tokens.file)
        try:
            n_tokens = file.stat().st_size // DTYPE.itemsize
            changed = tokens.sha256 is not None and scan(file).sha256 != tokens.sha256
        except OSError as error:
            problems[file] = (
                f"cannot be read ({error.strerror}); restore it, or start the study again"
            )
            continue
        if n_tokens < tokens.stop:
            problems[file] = f"has {n_tokens} tokens, the run reads {tokens.stop}; restore it"
        elif changed:
            problems[file] = (
                f"has changed since the run was planned: its SHA-256 is not {tokens.sha256}; "
                f"restore the file, or start the study again: the changed text is another run"
            )
    if problems:
        raise UserError([Problem(str(file), problem) for file, problem in problems.items()])


def scan(file: Path) -> TokenFileScan:
    """Return the hash of a file's content and its largest token, from the cache if possible."""
    path = str(file.resolve())
    cached = cache_folder() / "scans" / f"{hashlib.sha256(path.encode()).hexdigest()[:32]}.json"
    stat = file.stat()
    identity = (path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    try:
        known = TokenFileScan.model_validate(read_json(cached))
        if (known.path, known.size, known.mtime_ns, known.ctime_ns) == identity:
            return known
    except (StoreError, ValueError):  # no cached scan, or not one of this version
        pass
    sha = hashlib.sha256()
    max_token = 0
    n_skipped = HEADER_BYTES if _magic(file) == LLMC_MAGIC else 0
    with open(file, "rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            sha.update(chunk)
            n_whole = len(chunk) - len(chunk) % DTYPE.itemsize
            tokens = np.frombuffer(memoryview(chunk)[n_skipped:n_whole], DTYPE)
            max_token = max(max_token, int(tokens.max(initial=0)))
            n_skipped = 0
    result = TokenFileScan(
        path=path,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        ctime_ns=stat.st_ctime_ns,
        sha256=sha.hexdigest(),
        max_token=max_token,
    )
    if time.time() - stat.st_ctime > SETTLED_S:
        with contextlib.suppress(OSError):  # a worker may not be permitted to write here
            write_json(cached, result)
    return result


def _slice(file: Path) -> TokenSlice:
    start = HEADER_BYTES // DTYPE.itemsize if _magic(file) == LLMC_MAGIC else 0
    return TokenSlice(
        file=str(file.resolve()),
        start=start,
        stop=file.stat().st_size // DTYPE.itemsize,
        sha256=scan(file).sha256,
    )


def _magic(file: Path) -> int:
    with open(file, "rb") as stream:
        return int.from_bytes(stream.read(4), "little")


def _problem(file: Path, tokenizer: Tokenizer) -> str | None:
    """Return why a file of tokens is invalid, None if it is valid."""
    with open(file, "rb") as stream:
        head = stream.read(SAMPLE_BYTES)
    n_bytes = file.stat().st_size
    if n_bytes == 0:
        return "is empty; remove it"
    problem = formats.problem_of_magic(head) or _header_problem(head, n_bytes)
    if problem:
        return problem
    start = HEADER_BYTES if _magic(file) == LLMC_MAGIC else 0
    sample = head[start:]
    problem = _dtype_problem(sample, tokenizer.vocab_size)
    if problem:
        return problem
    if n_bytes % DTYPE.itemsize:
        return f"{n_bytes} bytes; uint16 tokens take two each"
    if scan(file).max_token >= tokenizer.vocab_size:
        return _vocabulary_problem(file, start, tokenizer)
    return _alphabet_problem(np.frombuffer(sample, DTYPE), tokenizer)


def _header_problem(head: bytes, n_bytes: int) -> str | None:
    """Return why the header of a file cannot be read; None if it can, or if there is none."""
    values = np.frombuffer(head[: len(head) // 4 * 4], "<i4")[: HEADER_BYTES // 4]
    known = f"known: none, or llm.c's of {HEADER_BYTES} bytes with magic {LLMC_MAGIC}, version 1"
    if len(values) == 0:
        return None
    magic = int(values[0])
    if magic == LLMC_MAGIC:
        n_tokens = (n_bytes - HEADER_BYTES) / DTYPE.itemsize
        if len(values) < HEADER_BYTES // 4:
            return f"truncated: the header of {HEADER_BYTES} bytes is incomplete"
        if values[1] != LLMC_VERSION:
            return f"its header has magic {magic} and the unknown version {values[1]}; {known}"
        if values[2] != n_tokens:
            return (
                f"its header states {values[2]} tokens, the file holds {n_tokens:g}; copy it again"
            )
        return None
    if magic == LLAMA_MAGIC:
        return f"its header (magic {magic}) is of uint32 tokens of Llama 3; {known}"
    if int(values[:1].byteswap()[0]) in (LLMC_MAGIC, LLAMA_MAGIC):
        return f"its header is big-endian; {known}"
    rest = np.frombuffer(head[HEADER_BYTES : len(head) // 2 * 2], DTYPE)
    is_mostly_zero = len(values) == HEADER_BYTES // 4 and np.mean(values == 0) > MIN_HEADER_ZEROS
    if (is_mostly_zero and len(rest) and np.mean(rest == 0) < 0.5) or _states_size(head, n_bytes):
        return f"has an unknown header (first numbers {values[:3].tolist()}); {known}"
    return None


def _states_size(head: bytes, n_bytes: int) -> bool:
    """Return whether one of the first numbers is the number of tokens after a header."""
    sizes = [8 << power for power in range(9)] + [4, 12, 20, 24]
    counts = {(n_bytes - size) // width for size in sizes for width in (1, 2, 4)}
    numbers: set[int] = set()
    for dtype in ("<i4", ">i4", "<i8", ">i8"):
        values = np.frombuffer(head[:32], dtype) if len(head) >= 32 else np.zeros(0, dtype)
        numbers |= {int(value) for value in values}
    return any(number in counts and number > 1 << 16 for number in numbers)


def _dtype_problem(sample: bytes, vocab_size: int) -> str | None:
    """Return why a sample is not of uint16, None if it may be."""
    for name, dtypes in OTHER_DTYPES.items():
        for dtype in dtypes:
            values = np.frombuffer(sample[: len(sample) // 8 * 8], dtype)
            if len(values) >= MIN_VALUES and _are_tokens(values, vocab_size):
                order = "big-endian " if dtype.startswith(">") else ""
                return (
                    f"holds {order}{name} values, not uint16; convert it: "
                    f"numpy.fromfile(FILE, '{dtype}').astype('<u2').tofile(FILE)"
                )
    if len(sample) >= 2 * MIN_SAMPLE and (_is_text(sample) or _is_8_bit(sample)):
        return (
            f"holds text or 8-bit values, not uint16; name a text with the suffix .txt, or {REMEDY}"
        )
    return None


def _is_text(sample: bytes) -> bool:
    """Return whether a sample is UTF-8 without control codes; its last character may be cut off."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return False
    return len(sample.translate(None, formats.CONTROL_BYTES)) > 0.99 * len(sample)


def _is_8_bit(sample: bytes) -> bool:
    """Return whether the low and the high bytes of a sample have equal frequencies."""
    low, high = np.frombuffer(sample[: len(sample) // 2 * 2], np.uint8).reshape(-1, 2).T
    if np.mean(high > 0) < 0.5:
        return False
    low_frequencies = np.bincount(low, minlength=256) / len(low)
    high_frequencies = np.bincount(high, minlength=256) / len(high)
    distance = np.abs(low_frequencies - high_frequencies).sum() / 2
    is_close = len(low) >= MIN_DISTRIBUTION_SAMPLE and distance < MIN_DISTANCE
    return bool(low.max() < 128 or is_close)


def _are_tokens(values: np.ndarray, vocab_size: int) -> bool:
    """Return whether all values are tokens of the vocabulary, and not all of them 0."""
    with np.errstate(invalid="ignore"):
        in_range = np.all((values >= 0) & (values < vocab_size) & (values == np.floor(values)))
    return bool(in_range and values.any())


def _vocabulary_problem(file: Path, start: int, tokenizer: Tokenizer) -> str:
    """Return the first token of a file that is not in the vocabulary, with its position."""
    tokens = np.memmap(file, DTYPE, "r", offset=start)
    vocabulary = f"the tokenizer '{tokenizer.name}' has {tokenizer.vocab_size}"
    step = CHUNK_BYTES // DTYPE.itemsize
    for first in range(0, len(tokens), step):
        invalid = np.flatnonzero(tokens[first : first + step] >= tokenizer.vocab_size)
        if len(invalid):
            break
    position = first + int(invalid[0])
    message = f"holds token {tokens[position]} at position {position}, {vocabulary}"
    sample = tokens[: SAMPLE_BYTES // DTYPE.itemsize]
    if sample.byteswap().max() < tokenizer.vocab_size:
        return (
            f"{message}; its bytes are in big-endian order, convert it: "
            "numpy.fromfile(FILE, '>u2').astype('<u2').tofile(FILE)"
        )
    return f"{message}; use the tokenizer that wrote the file"


def _alphabet_problem(tokens: np.ndarray, tokenizer: Tokenizer) -> str | None:
    """Return why tokens are those of another alphabet, None if they may be the tokenizer's."""
    if len(tokens) < MIN_ALPHABET_SAMPLE:
        return None
    remedy = "name the text itself as the corpus"
    if tokenizer.name != "bytes":
        if tokens.max() < 256:
            return (
                f"all of the first {len(tokens)} tokens are below 256: they are bytes or "
                f"characters, not tokens of '{tokenizer.name}'; {remedy}"
            )
        return None
    is_control = np.zeros(256, bool)
    is_control[list(formats.CONTROL_BYTES)] = True
    fraction = is_control[tokens].mean()
    if fraction > MAX_CONTROL_FRACTION:
        return (
            f"{fraction:.0%} of its first {len(tokens)} tokens are control codes, so they are "
            f"characters of another alphabet, not bytes of a text; {remedy}"
        )
    return None
