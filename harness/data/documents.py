"""Boundaries of documents: the separator token, with which each document begins."""

from harness.data.batches import Tokens
from harness.data.tokenizers import NAMES, Tokenizer
from harness.errors import Problem, UserError

CHUNK = 1 << 22  # tokens that are searched at once


def separator_of(tokenizer: Tokenizer, corpus: str, train: Tokens, place: str) -> int:
    """Return the token that separates the documents of a corpus.

    Raises:
        UserError: the tokenizer has no such token, or the training tokens do not contain it, so
            that there is nothing to mask.
    """
    separator = tokenizer.end_of_text
    if separator is None:
        others = ", ".join(name for name in NAMES if name != tokenizer.name)
        message = (
            f"mask: the tokenizer '{tokenizer.name}' has no token that separates documents; "
            f'allowed: data.tokenizer {others}, or data.documents = "cross"'
        )
        raise UserError([Problem(place, message)])
    if not _contains(train, separator):
        message = (
            f"mask: the training part of '{corpus}' has no <|endoftext|> (token {separator} of "
            f"'{tokenizer.name}'), so it is one document; separate its documents by <|endoftext|>, "
            'or set data.documents = "cross"'
        )
        raise UserError([Problem(place, message)])
    return separator


def _contains(tokens: Tokens, token: int) -> bool:
    """Return whether a token occurs; usually, the first chunk holds it."""
    for start in range(0, len(tokens), CHUNK):
        length = min(CHUNK, len(tokens) - start)
        if (tokens.window(start, length) == token).any():
            return True
    return False
