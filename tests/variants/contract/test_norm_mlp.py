"""Norms and MLPs act on each position independently, by themselves and in a model."""

import torch
from contract.cases import (
    SHAPE,
    B,
    T,
    decode,
    every_mlp,
    every_model,
    every_norm,
    inputs,
    make_gpt,
    randomize,
    token_influence,
    tokens_of,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness.contract import parts
from harness.model.initialization import init_parameters


@every_model
def test_model_is_causal_and_trains_all_parameters(attention, positional, norm, mlp):
    """A norm over the sequence, or a gate from the next position, would give a useless loss."""
    grad = token_influence(randomize(make_gpt(attention, positional, norm, mlp)))
    assert not grad.triu(1).any(), "an output depends on a later token"
    assert (grad.tril() > 0).sum() == T * (T + 1) // 2, (
        "an output does not depend on a token before it"
    )

    model, tokens = make_gpt(attention, positional, norm, mlp), tokens_of(T)
    init_parameters(model, seed=0)
    model(tokens, tokens.roll(-1, 1)).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_model
def test_model_is_reproducible_and_its_cache_exact(attention, positional, norm, mlp):
    """A norm or MLP with state of its own would break resuming and sampling."""
    first, second = (make_gpt(attention, positional, norm, mlp) for _ in range(2))
    tokens = tokens_of(T)
    with torch.no_grad():
        for model in (first, second):
            init_parameters(model, seed=7)
        full = first.logits(tokens)
        assert torch.equal(full, second.logits(tokens))
        torch.testing.assert_close(decode(first, tokens, 3), full[:, 2:], atol=1e-5, rtol=1e-5)


@every_model
@torch.no_grad()
def test_model_in_bf16_is_close_to_fp32(attention, positional, norm, mlp):
    """A part that mixes precisions leaves its fast kernel; PyTorch's warning is an error here."""
    model, tokens = randomize(make_gpt(attention, positional, norm, mlp)), tokens_of(T)
    full = model.logits(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.logits(tokens)
    assert (rounded - full).norm() < 0.05 * full.norm()


@every_norm
def test_norm_is_positionwise_and_starts_with_gain_one(norm):
    """A norm over positions leaks later tokens; another initial gain changes all learning rates."""
    norm = norm.make()
    assert parts.is_not_positionwise(randomize(norm), inputs()) == []
    init_parameters(nn.ModuleDict({"it": norm}), seed=0)
    assert norm(100 * inputs()).square().mean(-1).sqrt().sub(1).abs().max() < 1e-3


@every_mlp
def test_mlp_is_positionwise_and_drops_only_in_training(mlp):
    """An MLP over positions leaks later tokens; dropout in evaluation reports a wrong loss."""
    assert parts.is_not_positionwise(randomize(mlp.make()), inputs()) == []
    assert parts.drops_out_wrongly(mlp.make, SHAPE) == []


@every_mlp
def test_stated_mlp_flops_equal_the_counted(mlp):
    """A gate's third matrix product that is not counted would seem a better use of the hardware."""
    mlp = mlp.make()
    with FlopCounterMode(display=False) as counter:
        mlp(inputs())
    assert mlp.flops_per_token() == counter.get_total_flops() / (B * T) > 0
