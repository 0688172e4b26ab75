"""Boundaries of documents: the separator `<|endoftext|>`, a token or the bytes that spell it."""

import numpy as np

from harness.data.batches import Tokens
from harness.data.tables import SEPARATOR
from harness.data.tokenizers import Tokenizer
from harness.errors import Problem, UserError

CHUNK = 1 << 22  # tokens that are searched at once


def separator_of(tokenizer: Tokenizer, corpus: str, train: Tokens, place: str) -> list[int]:
    """Return the tokens of the separator, of which the last begins a document.

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


def contains(tokens: Tokens, sequence: list[int]) -> bool:
    """Return whether tokens occur in this order; usually, the first chunk holds them."""
    n = len(sequence)
    for start in range(0, len(tokens) - n + 1, CHUNK):
        chunk = tokens.window(start, min(CHUNK + n - 1, len(tokens) - start))
        if ends_of(chunk, sequence).any():
            return True
    return False


def ends_of(tokens: np.ndarray, sequence: list[int]) -> np.ndarray:
    """Return where a sequence of tokens ends in the last dimension, boolean of the same shape."""
    *first, last = sequence
    ends: np.ndarray = np.asarray(tokens) == last
    for distance, token in enumerate(reversed(first), start=1):
        ends[..., distance:] &= tokens[..., :-distance] == token
        ends[..., :distance] = False
    return ends
