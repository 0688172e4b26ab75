"""Attention equals softmax over the visible keys, written without kernels, blocks or masks."""

import itertools
import math

import pytest
import torch
from contract.cases import (
    POSITIONS,
    C,
    D,
    H,
    T,
    every_device,
    every_kind,
    every_pair,
    head_seen_by,
    inputs,
    make_pair,
)

from variants.attention.mha import MultiHead


def reference(attention, options, positional, x_BTC, sees):
    """Return softmax attention over the visible keys, computed query by query in float64."""
    p = {name: value.double() for name, value in attention.named_parameters()}
    n_kv_head = (len(p["c_attn.bias"]) - C) // (2 * D)
    projected = x_BTC.double() @ p["c_attn.weight"].T + p["c_attn.bias"]
    q, k, v = projected.split((C, n_kv_head * D, n_kv_head * D), dim=-1)
    q, k, v = (z.reshape(len(z), T, -1, D).transpose(1, 2) for z in (q, k, v))
    if options.qk_norm:
        q, k = (
            z / (z.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{name}_norm.weight"]
            for name, z in (("q", q), ("k", k))
        )
    positions = POSITIONS.to(x_BTC.device)
    q, k = positional.rotate(q, k, positions)
    bias = positional.bias(positions, positions)
    bias = torch.zeros(H, T, T, device=q.device) if bias is None else bias.double().expand(H, T, T)
    rows = []
    for t, h in itertools.product(range(T), range(H)):
        group, keys = h * n_kv_head // H, sees[h, t].nonzero()[:, 0]
        scores = (k[:, group, keys] * q[:, h, t, None]).sum(-1) / math.sqrt(D)
        if options.logit_softcap:
            scores = options.logit_softcap * torch.tanh(scores / options.logit_softcap)
        scores = scores + bias[h, t, keys]
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        rows.append((weights[..., None] * v[:, group, keys]).sum(1))
    return torch.cat(rows, -1).view(len(x_BTC), T, C) @ p["c_proj.weight"].T + p["c_proj.bias"]


def need_reference(module):
    known = {f"c_{x}.{y}" for x in ("attn", "proj") for y in ("weight", "bias")}
    if not isinstance(module, MultiHead) or {
        name for name, _ in module.named_parameters()
    } - known - {f"{x}_norm.weight" for x in "qk"}:
        pytest.skip(
            "has other parameters than GPT-2's attention: write its own reference next to it"
        )


@every_device
@every_pair
def test_attention_and_gradients_equal_the_formula(attention, positional, device):
    """Fused kernels, blocks and masks compute softmax attention over exactly the visible keys."""
    options, (attention, positional) = attention.options, make_pair(attention, positional)
    need_reference(attention)
    sees = head_seen_by(attention, positional).to(device)
    attention, positional = attention.to(device), positional.to(device)
    parameters = [
        *attention.parameters(),
        *(p for p in positional.parameters() if positional.has_bias),
    ]
    x, probe = inputs().to(device).requires_grad_(), inputs(6).to(device)

    y = attention(x, POSITIONS.to(device), positional)
    expected = reference(attention, options, positional, x, sees)
    close = 1e-5 if device == "cpu" else 1e-4
    torch.testing.assert_close(y.double(), expected, atol=close, rtol=close)

    wanted = [x, *parameters]
    got = torch.autograd.grad((y * probe).sum(), wanted)
    for found, right in zip(
        got, torch.autograd.grad((expected * probe).sum(), wanted), strict=True
    ):
        torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)


@every_device
@every_kind
def test_bf16_attention_is_close_to_the_formula(attention, positional, device):
    """A wrong cast would change the result by more than bf16 rounding."""
    options, (attention, positional) = attention.options, make_pair(attention, positional)
    need_reference(attention)
    sees = head_seen_by(attention, positional).to(device)
    attention, positional, x = attention.to(device), positional.to(device), inputs().to(device)
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        y = attention(x, POSITIONS.to(device), positional)
    expected = reference(attention, options, positional, x, sees).detach()
    assert (y.double() - expected).norm() < 0.02 * expected.norm()
