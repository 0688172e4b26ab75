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
    inputs,
    make_gpt,
    randomize,
)
from torch import nn
from torch.autograd import gradcheck

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


def check_gradients(module, call, *inputs):
    """Compare all gradients, those of the parameters too, with differences in float64."""
    names = [name for name, _ in module.named_parameters()]
    point = [x.double() for x in inputs] + [p.detach().double() for p in module.parameters()]

    def outputs(*values):
        given, parameters = (
            values[: len(inputs)],
            dict(zip(names, values[len(inputs) :], strict=True)),
        )
        made = call(lambda *args: torch.func.functional_call(module, parameters, args), *given)
        return tuple(y for y in made if y is not None and y.requires_grad)

    assert gradcheck(outputs, [x.requires_grad_() for x in point], fast_mode=True)


def make_small(case, **kwargs):
    if not case.problem and case.cls.check(SMALL, case.options):
        pytest.skip("check() refuses the small shape")
    return randomize(case.make(SMALL, **kwargs)).double()


@every_attention
def test_attention_gradients_equal_differences(attention):
    """A backward pass with one wrong term still trains, only worse, and the variant is blamed."""
    module, positions = make_small(attention, layer=0), torch.arange(SMALL.seq_len)
    positional = (
        DistanceBias(SMALL, None) if attention.cls.supports_bias else Positional(SMALL, None)
    )
    positional = randomize(positional).double().requires_grad_(False)
    x = inputs(3, 2, SMALL.seq_len, SMALL.n_embd)
    check_gradients(module, lambda call, x: [call(x, positions, positional)], x)


class Places(nn.Module):
    """Calls a positional in all three places, as a module so that its parameters can be given."""

    def __init__(self, positional):
        super().__init__()
        self.positional = positional

    def forward(self, x, q, k, positions):
        it = self.positional
        return it.embed(x, positions), *it.rotate(q, k, positions), it.bias(positions, positions)


@every_positional
def test_positional_gradients_equal_differences(positional):
    """A custom backward pass must transform gradients as the forward pass transforms values."""
    T, H, D = SMALL.seq_len, SMALL.n_head, SMALL.head_dim
    sizes = (2, T, SMALL.n_embd), (2, H, T, D), (2, 2, T, D)
    check_gradients(
        Places(make_small(positional)),
        lambda call, x, q, k: call(x, q, k, torch.arange(T)),
        *(inputs(seed, *size) for seed, size in enumerate(sizes)),
    )


@pytest.mark.parametrize("part", [*NORMS, *MLPS], ids=str)
def test_norm_and_mlp_gradients_equal_differences(part):
    """A backward pass with one wrong term still trains, only worse, and the variant is blamed."""
    check_gradients(
        make_small(part), lambda call, x: [call(x)], inputs(3, 2, SMALL.seq_len, SMALL.n_embd)
    )
