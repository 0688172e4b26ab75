"""No output depends on a later token, and each depends on all that its layers make visible."""

import torch
from contract.cases import (
    POSITIONALS,
    SHAPE,
    T,
    every_attention,
    every_kind,
    every_pair,
    make_gpt,
    make_pair,
    randomize,
    seen_by,
    token_influence,
)

from harness.contract import parts


@every_pair
def test_outputs_depend_on_exactly_the_visible_tokens(attention, positional):
    """A model that sees later tokens is useless; one that sees fewer is another variant."""
    model = randomize(make_gpt(attention, positional))
    layers = [seen_by(block.attn, model.positional).double() for block in model.h]
    reach = torch.linalg.multi_dot(layers[::-1]) > 0
    grad = token_influence(model)
    assert grad.shape == (T, T)
    assert not grad.triu(1).any(), "an output depends on a later token"
    assert (grad.diagonal() > 0).all(), "an output does not depend on its own token"
    assert torch.equal(grad > 0, reach)


@every_kind
def test_prefix_outputs_do_not_depend_on_later_tokens(attention, positional):
    """Sampling processes growing prefixes; the outputs of earlier tokens must not change."""
    made = make_pair(attention, positional)
    assert parts.depends_on_later_positions(*made, SHAPE) == []


@every_attention
def test_sequences_of_a_batch_are_independent(attention):
    """A reshape that mixes batch and heads leaks other sequences into the loss."""
    assert parts.mixes_sequences(*make_pair(attention, POSITIONALS[-1]), SHAPE) == []
