"""Boundaries of documents: the separator `<|endoftext|>`, a token or the bytes that spell it."""

from collections.abc import Sequence

import numpy as np

from harness.data.batches import Tokens
from harness.data.tables import SEPARATOR
from harness.data.tokenizers import Tokenizer
from harness.errors import Problem, UserError

CHUNK = 1 << 22  # tokens that are searched at once


def separator_of(tokenizer: Tokenizer, corpus: str, train: Tokens, place: str) -> list[int]:
    """Return the tokens of the separator; the last one begins a document.

    Raises:
        UserError: the training tokens do not contain it, so that there is nothing to mask.
    """
    separator: list[int] = tokenizer.encode(SEPARATOR).tolist()
    if not contains(train, separator):
        message = (
            f"mask: the training part of '{corpus}' has no {SEPARATOR} (tokens {separator} of "
            f"'{tokenizer.name}'), so it is one document; separate its documents by {SEPARATOR}, "
            'or set data.documents = "cross"'
        )
        raise UserError([Problem(place, message)])
    return separator


def contains(tokens: Tokens, sequence: Sequence[int]) -> bool:
    """Return whether tokens occur in this order; usually, the first chunk holds them."""
    n = len(sequence)
    for start in range(0, len(tokens) - n + 1, CHUNK):
        chunk = tokens.window(start, min(CHUNK + n - 1, len(tokens) - start))
        if ends_of(chunk, sequence).any():
            return True
    return False


def ends_of(tokens: np.ndarray, sequence: Sequence[int]) -> np.ndarray:
    """Return where a sequence of tokens ends in the last dimension, boolean of the same shape."""
    *first, last = sequence
    ends: np.ndarray = np.asarray(tokens) == last
    for distance, token in enumerate(reversed(first), start=1):
        ends[..., distance:] &= tokens[..., :-distance] == token
        ends[..., :distance] = False
    return ends


def spelled_separator(tokenizer: str) -> Sequence[int]:
    """Return the tokens of a separator that is not a token of its own; none if it is one."""
    return SEPARATOR.encode() if tokenizer == "bytes" else ()


def in_separators(
    tokens: Tokens, offsets: np.ndarray, length: int, separator: Sequence[int]
) -> np.ndarray:
    """Return which targets of windows are part of a separator, also of one that the window cuts.

    The targets of a window, (len(offsets), length) in all, begin one token after its offset.
    """
    inside = np.zeros((len(offsets), length), dtype=bool)
    n = len(separator)
    if n == 0:
        return inside
    for row, first in enumerate((offsets + 1).tolist()):
        start = max(0, first - n + 1)
        stop = min(len(tokens), first + length + n - 1)
        ends = np.flatnonzero(ends_of(tokens.window(start, stop - start), separator))
        for end in (ends + start - first).tolist():
            inside[row, max(0, end - n + 1) : max(0, end + 1)] = True
    return inside
