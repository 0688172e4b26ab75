"""With masked documents, no output depends on another document, and each on all of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from harness.contract.architecture import VOCABULARY, outputs, tokens_of
from harness.contract.causality import (
    GRADIENT_ROUNDING,
    ROUNDING,
    Setting,
    embedded,
    first_difference,
)
from harness.contract.violation import Violation
from harness.model.gpt import GPT
from variants.base import Attention

CHECK = "documents"
SEPARATOR = VOCABULARY - 1


def supports_documents(model: GPT) -> bool:
    """Return whether every attention of a model claims to support documents."""
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    return all(attention.supports_documents for attention in attentions)


def crosses_documents(model: GPT, setting: Setting) -> list[Violation]:
    """Change the words of each document; report another document whose outputs change.

    Gradients show small effects too. Each sequence of the batch has other documents.
    """
    tokens = separated(tokens_of(3, setting.length))
    documents = documents_of(tokens)
    with masked(model), torch.no_grad():
        before = outputs(model, tokens, setting.training)
        for document in range(int(documents.max()) + 1):
            own = documents == document
            changed = torch.where(own & (tokens != SEPARATOR), (tokens + 7) % SEPARATOR, tokens)
            after = outputs(model, changed, setting.training)
            difference = (after - before).abs().amax(dim=-1)
            wrong = (difference > ROUNDING * before.abs().max()) & ~own
            if wrong.any():
                return [_violation(model, tokens, changed, wrong, document, setting)]
    with masked(model):
        return _crosses_by_gradient(model, tokens, documents, setting)


def hides_own_document(model: GPT, setting: Setting) -> list[Violation]:
    """Report an output that depends on the first words of its document only without the mask."""
    tokens = separated(tokens_of(3, setting.length))
    unmasked = _affected_by_starts(model, tokens, setting)
    with masked(model):
        affected = _affected_by_starts(model, tokens, setting)
    hidden = (unmasked & ~affected).nonzero()
    if not len(hidden):
        return []
    row, position = hidden[0].tolist()
    message = (
        f"the output at position {position} of sequence {row} depends on its document's first "
        f"tokens only if documents are not masked ({setting})"
    )
    return [Violation(CHECK, message)]


@contextmanager
def masked(model: GPT) -> Iterator[None]:
    """Mask documents that begin with the token `SEPARATOR`."""
    model.separator = [SEPARATOR]
    try:
        yield
    finally:
        model.separator = None


def documents_of(tokens_BT: Tensor) -> Tensor:
    """Return the number of each token's document in its sequence, (B, T)."""
    return (tokens_BT == SEPARATOR).cumsum(dim=1)


def separated(tokens_BT: Tensor) -> Tensor:
    """Return tokens with separators at other positions of each sequence, also two in a row."""
    tokens_BT = tokens_BT % SEPARATOR
    length = tokens_BT.shape[1]
    for row, starts in enumerate(document_starts(length)):
        tokens_BT[row, starts] = SEPARATOR
    return tokens_BT


def document_starts(length: int) -> list[list[int]]:
    """Return the positions of the separators in each of three sequences."""
    third = length // 3
    starts = ([third, 2 * third + 1], [0, 1, length // 2, length // 2 + 1], [length - 2])
    return [[start for start in row if 0 <= start < length] for row in starts]


@torch.no_grad()
def _affected_by_starts(model: GPT, tokens: Tensor, setting: Setting) -> Tensor:
    """Return whether each output changes with the first two words of its document, (B, T)."""
    documents = documents_of(tokens)
    affected = torch.zeros_like(tokens, dtype=torch.bool)
    before = outputs(model, tokens, setting.training)
    bound = ROUNDING * before.abs().max()
    for document in range(int(documents.max()) + 1):
        own = documents == document
        words = own & (tokens != SEPARATOR)
        first = words & (words.cumsum(dim=1) <= 2)
        changed = torch.where(first, (tokens + 7) % SEPARATOR, tokens)
        difference = outputs(model, changed, setting.training) - before
        affected |= own & (difference.abs().amax(dim=-1) > bound)
    return affected


def _crosses_by_gradient(
    model: GPT, tokens: Tensor, documents: Tensor, setting: Setting
) -> list[Violation]:
    for document in range(int(documents.max()) + 1):
        own = documents == document
        with embedded(model, tokens) as x:
            logits = outputs(model, tokens, setting.training)
        generator = torch.Generator().manual_seed(4)
        weights = torch.randn(logits.shape, generator=generator) * own[..., None]
        (gradient,) = torch.autograd.grad((logits * weights).sum(), x)
        size = gradient.abs().amax(dim=-1)
        wrong = (size > GRADIENT_ROUNDING * size.max()) & ~own
        if wrong.any():
            row, token = wrong.nonzero()[0].tolist()
            message = (
                f"outputs of document {document} of sequence {row} have a gradient with respect to "
                f"token {token}, which is in another document ({setting})"
            )
            return [Violation(CHECK, message)]
    return []


def _violation(
    model: GPT, tokens: Tensor, changed: Tensor, wrong: Tensor, document: int, setting: Setting
) -> Violation:
    row, position = wrong.nonzero()[0].tolist()
    where = first_difference(model, tokens, changed, lambda x: x[row, position], setting.training)
    message = (
        f"the output at position {position} of sequence {row} depends on document {document}, "
        f"which is another one ({setting})"
    )
    return Violation(CHECK, message, where)
