"""The layout of a token file, and the features by which a file of another type is recognized.

A file has no header (nanoGPT) or llm.c's: 256 int32, which begin with the magic number, the
version and the number of tokens. llm.c and modded-nanogpt write GPT-2's tokens as uint16 with magic
20240520, version 1; llm.c writes Llama 3's as uint32 with magic 20240801, version 7.
"""

import codecs
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.data import formats
from harness.data.batches import DTYPES
from harness.data.tokenizers import Tokenizer
from harness.results.files import open_file
from harness.results.records import TokenDtype

REMEDY = "write the tokens as numpy.asarray(tokens).astype('<u2').tofile('train.bin')"
CHUNK_BYTES = 1 << 24
SAMPLE_BYTES = 1 << 18

HEADER_BYTES = 1024
HEADERS: dict[int, tuple[int, TokenDtype]] = {  # by magic number: version and type
    20240520: (1, "uint16"),
    20240801: (7, "uint32"),
}
KNOWN_HEADERS = (
    f"known: none, or llm.c's of {HEADER_BYTES} bytes with magic 20240520, version 1 (uint16), or "
    "magic 20240801, version 7 (uint32)"
)
MIN_HEADER_ZEROS = 0.9  # of the header's values

# Types that a file of the first type is not; the widest first: int64 is also a sequence of int32.
OTHER_DTYPES: dict[TokenDtype, dict[str, tuple[str, ...]]] = {
    "uint16": {
        "int64": ("<i8", ">i8"),
        "float64": ("<f8", ">f8"),
        "int32": ("<i4", ">i4"),
        "float32": ("<f4", ">f4"),
        "float16": ("<f2", ">f2"),
    },
    "uint32": {
        "int64": ("<i8", ">i8"),
        "float64": ("<f8", ">f8"),
        "int32": (">i4",),
        "float32": ("<f4", ">f4"),
        "float16": ("<f2", ">f2"),
        "uint16": ("<u2", ">u2"),
    },
}
MIN_VALUES = 8  # that must all be tokens of another type to refuse it
# Tokens that a check needs: 32 low bytes below 128 by chance, an alphabet, two distributions.
MIN_SAMPLE = 32
MIN_ALPHABET_SAMPLE = 256
MIN_DISTRIBUTION_SAMPLE = 4096
MAX_CONTROL_FRACTION = 0.15  # of tokens of the tokenizer `bytes`; random bytes have 0.11
MIN_DISTANCE = 0.15  # between the frequencies of low and high bytes; uniform tokens have 0.23


@dataclass(frozen=True)
class Layout:
    """The type of the tokens of a file, and the number of bytes before the first."""

    dtype: TokenDtype
    n_header_bytes: int = 0

    @property
    def numpy_dtype(self) -> np.dtype[np.unsignedinteger]:
        """The type for NumPy."""
        return DTYPES[self.dtype]

    @property
    def start(self) -> int:
        """The header's size as a number of tokens."""
        return self.n_header_bytes // self.numpy_dtype.itemsize


def layout(file: Path, token_dtype: TokenDtype) -> Layout:
    """Return the layout of a file, whose tokens are `token_dtype` if it has no header."""
    with open_file(file) as stream:
        magic = int.from_bytes(stream.read(4), "little")
    if magic in HEADERS:
        _, dtype = HEADERS[magic]
        return Layout(dtype, HEADER_BYTES)
    return Layout(token_dtype)


def header(dtype: TokenDtype, n_tokens: int) -> bytes:
    """Return llm.c's header of a file of `n_tokens`."""
    magic = next(magic for magic, (_, other) in HEADERS.items() if other == dtype)
    values = np.zeros(HEADER_BYTES // 4, "<i4")
    values[:3] = (magic, HEADERS[magic][0], n_tokens)
    return values.tobytes()


def header_problem(head: bytes, n_bytes: int) -> str | None:
    """Return why the header of a file cannot be read; None if it can, or if there is none."""
    values = np.frombuffer(head[: len(head) // 4 * 4], "<i4")[: HEADER_BYTES // 4]
    if len(values) == 0:
        return None
    magic = int(values[0])
    if magic in HEADERS:
        version, dtype = HEADERS[magic]
        n_tokens = (n_bytes - HEADER_BYTES) / DTYPES[dtype].itemsize
        if len(values) < HEADER_BYTES // 4:
            return f"truncated: the header of {HEADER_BYTES} bytes is incomplete"
        if values[1] != version:
            return (
                f"its header has magic {magic} and the unknown version {values[1]}; {KNOWN_HEADERS}"
            )
        if values[2] != n_tokens:
            return (
                f"its header states {values[2]} tokens, the file holds {n_tokens:g} ({dtype}); "
                "copy it again"
            )
        return None
    if int(values[:1].byteswap()[0]) in HEADERS:
        return f"its header is big-endian; {KNOWN_HEADERS}"
    rest = np.frombuffer(head[HEADER_BYTES : len(head) // 4 * 4], "<u4")
    is_mostly_zero = len(values) == HEADER_BYTES // 4 and np.mean(values == 0) > MIN_HEADER_ZEROS
    if (is_mostly_zero and len(rest) and np.mean(rest == 0) < 0.5) or _states_size(head, n_bytes):
        return f"has an unknown header (first numbers {values[:3].tolist()}); {KNOWN_HEADERS}"
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


def dtype_problem(sample: bytes, dtype: TokenDtype, vocab_size: int) -> str | None:
    """Return why a sample is not of a type, None if it may be."""
    n_long = 2 * MIN_SAMPLE
    is_text = len(sample) >= n_long and _is_text(sample)
    whole = sample[: len(sample) // 8 * 8]
    is_valid = _are_tokens(np.frombuffer(whole, DTYPES[dtype]), vocab_size)
    for name, other_dtypes in OTHER_DTYPES[dtype].items():
        for other in other_dtypes:
            values = np.frombuffer(whole, other)
            is_other = len(values) >= MIN_VALUES and _are_tokens(values, vocab_size)
            if name == "uint16" and (is_text or is_valid):  # the halves of tokens are tokens
                continue
            if is_other:
                order = "big-endian " if other.startswith(">") else ""
                return f"holds {order}{name} values, not {dtype}; {_conversion(other)}"
    if is_text or (len(sample) >= n_long and _is_8_bit(sample)):
        return (
            f"holds text or 8-bit values, not {dtype}; name a text with the suffix .txt, or "
            f"{REMEDY}"
        )
    return None


def _conversion(dtype: str) -> str:
    """Return how to make a file of another type readable."""
    if dtype == "<i4":
        return 'set token_dtype = "uint32" in [data]'
    if dtype == "<u2":
        return "remove token_dtype from [data]"
    return f"convert it: numpy.fromfile(FILE, '{dtype}').astype('<u2').tofile(FILE)"


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


def vocabulary_problem(file: Path, layout: Layout, tokenizer: Tokenizer) -> str:
    """Return the first token of a file that is not in the vocabulary, with its position."""
    dtype = layout.numpy_dtype
    tokens = np.memmap(file, dtype, "r", offset=layout.n_header_bytes)
    vocabulary = f"the tokenizer '{tokenizer.name}' has {tokenizer.vocab_size}"
    step = CHUNK_BYTES // dtype.itemsize
    for first in range(0, len(tokens), step):
        invalid = np.flatnonzero(tokens[first : first + step] >= tokenizer.vocab_size)
        if len(invalid):
            break
    position = first + int(invalid[0])
    message = f"holds token {tokens[position]} at position {position}, {vocabulary}"
    sample = tokens[: SAMPLE_BYTES // dtype.itemsize]
    if sample.byteswap().max() < tokenizer.vocab_size:
        swapped = dtype.newbyteorder(">").str
        return (
            f"{message}; its bytes are in big-endian order, convert it: "
            f"numpy.fromfile(FILE, '{swapped}').astype('{dtype.str}').tofile(FILE)"
        )
    return f"{message}; use the tokenizer that wrote the file"


def alphabet_problem(tokens: np.ndarray, tokenizer: Tokenizer) -> str | None:
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
