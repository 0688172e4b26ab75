"""Tokenizers: tiktoken encodings by name, and `bytes`, whose 256 tokens are the bytes of UTF-8."""

import hashlib
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from harness.errors import Problem, UserError, choices
from harness.results.files import read_file, write_bytes
from harness.results.records import TokenDtype

# The token that separates texts, by the name of the tokenizer; known without its files.
END_OF_TEXT: Mapping[str, int | None] = {
    "bytes": None,
    "gpt2": 50_256,
    "r50k_base": 50_256,
    "p50k_base": 50_256,
    "cl100k_base": 100_257,
    "o200k_base": 199_999,
}
NAMES = tuple(END_OF_TEXT)

# The files of each encoding: their addresses, from which tiktoken derives the names in its cache,
# and their SHA-256.
_ROOT = "https://openaipublic.blob.core.windows.net"
FILES: Mapping[str, Mapping[str, str]] = {
    "gpt2": {
        f"{_ROOT}/gpt-2/encodings/main/vocab.bpe": (
            "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
        ),
        f"{_ROOT}/gpt-2/encodings/main/encoder.json": (
            "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
        ),
    },
    "r50k_base": {
        f"{_ROOT}/encodings/r50k_base.tiktoken": (
            "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
        )
    },
    "p50k_base": {
        f"{_ROOT}/encodings/p50k_base.tiktoken": (
            "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069"
        )
    },
    "cl100k_base": {
        f"{_ROOT}/encodings/cl100k_base.tiktoken": (
            "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
        )
    },
    "o200k_base": {
        f"{_ROOT}/encodings/o200k_base.tiktoken": (
            "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
        )
    },
}


class Tokenizer:
    """Encodes text to tokens and back.

    Raises:
        UserError: the name is unknown, or tiktoken cannot download its files. `place` is where
            the name comes from.
    """

    def __init__(self, name: str, place: str = "tokenizer") -> None:
        self.name = name
        if name not in NAMES:
            message = f"'{name}': no such tokenizer; {choices(name, NAMES)}"
            raise UserError([Problem(place, message)])
        import tiktoken

        if name == "bytes":
            self._encoding = tiktoken.Encoding(
                "bytes",
                pat_str=r"(?s:.)",
                mergeable_ranks={bytes([value]): value for value in range(256)},
                special_tokens={},
                explicit_n_vocab=256,
            )
            return
        damaged = _damaged_files(name)
        irregular = [path for path in damaged if not path.is_file()]
        if irregular:  # tiktoken would wait for a pipe
            message = f"'{name}': {irregular[0]} is not a file; remove it"
            raise UserError([Problem(place, message)])
        try:
            self._encoding = tiktoken.get_encoding(name)
        except (OSError, ValueError) as error:
            if damaged:
                names = " and ".join(map(str, damaged))
                reason = f"{names}: damaged, and tiktoken cannot download it"
            else:
                reason = "tiktoken cannot download it"
            message = (
                f"'{name}': {reason} ({type(error).__name__}); run once with a "
                f"network and TIKTOKEN_CACHE_DIR=FOLDER, then copy that folder here"
            )
            raise UserError([Problem(place, message)]) from error

    @property
    def vocab_size(self) -> int:
        """Return the number of tokens."""
        return self._encoding.n_vocab

    @property
    def dtype(self) -> TokenDtype:
        """Return the smallest type that holds every token."""
        return "uint16" if self.vocab_size <= 1 << 16 else "uint32"

    @property
    def end_of_text(self) -> int | None:
        """Return the token that separates texts, None if there is none."""
        return END_OF_TEXT[self.name]

    def encode(self, text: str) -> np.ndarray:
        """Return the tokens, of `dtype`; each special token in the text becomes one token.

        `bytes` has no special tokens: `<|endoftext|>` in a text is 13 bytes like any other.
        """
        if self.name == "bytes":  # the encoding gives the same, character by character
            return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.uint16)
        return np.array(self._encoding.encode(text, allowed_special="all"), dtype=self.dtype)

    def boundary(self, text: str, position: int) -> int:
        """Return `position`, or the end of the special token of `text` that it would cut."""
        for token in self._encoding.special_tokens_set:
            start = text.find(token, max(0, position - len(token) + 1), position + len(token) - 1)
            if 0 <= start < position:
                return start + len(token)
        return position

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """Return the UTF-8 of the tokens, which may begin or end inside a character."""
        return self._encoding.decode_bytes(list(tokens))

    def byte_lengths(self, folder: Path) -> Path:
        """Return a .npy file with the bytes of each token, (vocab_size,), cached in `folder`.

        Special tokens separate texts and have no bytes. Bits per byte counts neither these tokens'
        bytes nor their nats.
        """
        file = folder / "tokens" / f"{self.name}.bytes.npy"
        lengths = [self._n_bytes(token) for token in range(self.vocab_size)]
        buffer = io.BytesIO()
        np.save(buffer, np.array(lengths, dtype=np.int64))
        if not _has_content(file, buffer.getvalue()):
            write_bytes(file, buffer.getvalue())
        return file

    def _n_bytes(self, token: int) -> int:
        try:
            value = self._encoding.decode_single_token_bytes(token)
        except KeyError:  # a gap in the numbering
            return 0
        is_special = value.decode("utf-8", "replace") in self._encoding.special_tokens_set
        return 0 if is_special else len(value)


def _has_content(file: Path, content: bytes) -> bool:
    try:
        return read_file(file) == content
    except OSError:  # missing, or what is no file
        return False


def _damaged_files(name: str) -> list[Path]:
    """Return the files of an encoding in tiktoken's cache with another content than their hash.

    tiktoken removes and downloads a file with another hash; without a network, the reason is lost.
    """
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder is None:
        folder = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    if not folder:
        return []  # tiktoken uses no cache
    damaged = []
    for address, sha256 in FILES[name].items():
        path = Path(folder) / hashlib.sha1(address.encode()).hexdigest()
        try:
            if hashlib.sha256(read_file(path)).hexdigest() != sha256:
                damaged.append(path)
        except FileNotFoundError:
            if path.is_symlink():
                damaged.append(path)
        except OSError:
            damaged.append(path)
    return damaged
