"""Gradients are finite, reproducible, and equal to finite differences."""

import pytest
import torch
from contract.cases import (
    MLPS,
    NORMS,
    SHAPE,
    B,
    DistanceBias,
    T,
    each_variant,
    every_attention,
    every_positional,
    make_gpt,
    randomize,
)

from harness.contract import parts
from harness.model.initialization import init_parameters
from variants.base import ModelShape, Positional

SMALL = ModelShape(
    n_layer=2, n_head=4, n_embd=16, seq_len=7, vocab_size=5
)  # 5 does not divide it, heads are 4 wide


@each_variant
def test_all_parameters_get_finite_gradients(attention, positional):
    """A parameter without a gradient is never trained; a NaN in a gradient ends the run."""
    model = make_gpt(attention, positional)
    init_parameters(model, seed=0)
    tokens = torch.randint(SHAPE.vocab_size, (B, T))
    assert model.logits(tokens).shape == (B, T, SHAPE.vocab_size)
    model(tokens, tokens.roll(-1, 1)).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@each_variant
def test_same_seed_gives_the_same_bits(attention, positional):
    """Results that cannot be reproduced cannot be compared."""
    attempts = []
    for _ in range(2):
        model = make_gpt(attention, positional)
        init_parameters(model, seed=7)
        tokens = torch.randint(SHAPE.vocab_size, (B, T), generator=torch.Generator().manual_seed(8))
        losses = model(tokens, tokens.roll(-1, 1))
        attempts.append([losses, *torch.autograd.grad(losses.mean(), list(model.parameters()))])
    for first, second in zip(*attempts, strict=True):
        assert torch.equal(first, second)


def make_small(case, **kwargs):
    if not case.problem and case.cls.check(SMALL, case.options):
        pytest.skip("check() refuses the small shape")
    return randomize(case.make(SMALL, **kwargs)).double()


@every_attention
def test_attention_gradients_equal_differences(attention):
    """A backward pass with one wrong term still trains, only worse, and the variant is blamed."""
    module = make_small(attention, layer=0)
    bias = DistanceBias if attention.cls.supports_bias else Positional
    positional = randomize(bias(SMALL, None)).double().requires_grad_(False)
    assert parts.has_wrong_gradients(module, SMALL, positional) == []


@every_positional
def test_positional_gradients_equal_differences(positional):
    """A custom backward pass must transform gradients as the forward pass transforms values."""
    assert parts.has_wrong_gradients(make_small(positional), SMALL) == []


@pytest.mark.parametrize("part", [*NORMS, *MLPS], ids=str)
def test_norm_and_mlp_gradients_equal_differences(part):
    """A backward pass with one wrong term still trains, only worse, and the variant is blamed."""
    assert parts.has_wrong_gradients(make_small(part), SMALL) == []
