"""Positional encodings are functions of positions and declare their properties."""

import pytest
import torch
from contract.cases import POSITIONS, B, C, D, H, T, every_positional, inputs, randomize


def apply(positional, positions, x_BTC):
    """Return the positional's embeddings, queries and keys at `positions`."""
    heads = x_BTC.view(len(x_BTC), -1, H, D).transpose(1, 2)
    q, k = positional.rotate(heads, 2 * heads[:, :2], positions)
    return positional.embed(x_BTC, positions), q.transpose(1, 2), k.transpose(1, 2)


@every_positional
def test_positional_is_a_function_of_positions(positional):
    """Blocks, a KV cache and a sharded sequence pass their own positions."""
    positional, x = randomize(positional.make()), inputs()
    whole, bias = apply(positional, POSITIONS, x), positional.bias(POSITIONS, POSITIONS)
    for index in (torch.arange(7, 15), torch.tensor([23, 0, 11]), torch.tensor([5])):
        for part, expected in zip(apply(positional, index, x[:, index]), whole, strict=True):
            torch.testing.assert_close(part, expected[:, index])
        if bias is not None:
            part = positional.bias(index, POSITIONS[3:9])
            torch.testing.assert_close(part, bias[..., index, 3:9])


@every_positional
def test_positional_keeps_shapes_and_precision(positional):
    """A positional that casts bf16 to fp32 makes attention leave its fast kernel."""
    positional = randomize(positional.make()).bfloat16()
    x = inputs().bfloat16()
    embedded, q, k = apply(positional, POSITIONS, x)
    assert (embedded.shape, q.shape, k.shape) == ((B, T, C), (B, T, H, D), (B, T, 2, D))
    assert embedded.dtype == q.dtype == k.dtype == torch.bfloat16


@every_positional
def test_has_bias_is_declared_correctly(positional):
    """Studies reject pairs by `has_bias`; an undeclared bias would be dropped silently."""
    positional = positional.make()
    bias = positional.bias(POSITIONS, POSITIONS[:5])
    assert (bias is not None) == positional.has_bias
    if bias is not None:
        assert bias.shape in ((H, T, 5), (1, T, 5))
        blocks = positional.bias(POSITIONS.view(3, 8), POSITIONS.view(3, 8))
        assert blocks.shape[0] == 3
        for n in range(3):
            torch.testing.assert_close(
                blocks[n], positional.bias(POSITIONS.view(3, 8)[n], POSITIONS.view(3, 8)[n])
            )


@every_positional
def test_extrapolates_is_declared_correctly(positional):
    """Sampling slides the context only if positions beyond the trained length are defined."""
    positional, beyond = randomize(positional.make()), torch.arange(T, 2 * T)
    if positional.extrapolates:
        for value in apply(positional, beyond, inputs()):
            assert value.isfinite().all()
    else:
        with pytest.raises(IndexError):
            apply(positional, beyond, inputs())
