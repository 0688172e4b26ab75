"""Decoding with a KV cache is the model itself."""

import pytest
import torch
from contract.cases import (
    POSITIONALS,
    POSITIONS,
    B,
    T,
    decode,
    every_attention,
    every_device,
    every_kind,
    every_pair,
    inputs,
    make_gpt,
    make_pair,
    randomize,
    tokens_of,
)


@every_device
@every_pair
@torch.no_grad()
def test_cached_logits_equal_the_full_forward_pass(attention, positional, device):
    """Sampled text must be the model's, also beyond the window and after the ring wraps."""
    model = randomize(make_gpt(attention, positional)).to(device)
    tokens = tokens_of(T).to(device)
    full = model.logits(tokens)
    for prompt in (1, 3, 13, T - 1):
        got = decode(model, tokens, prompt)
        close = 1e-5 if device == "cpu" else 1e-4
        torch.testing.assert_close(got, full[:, prompt - 1 :], atol=close, rtol=close)


@every_kind
@torch.no_grad()
def test_cache_set_back_repeats_its_last_position(attention, positional):
    """The decode probe times one position repeatedly and must find the same state each time."""
    model = randomize(make_gpt(attention, positional))
    tokens, caches = tokens_of(T), model.caches(B, T, torch.float32)
    model.next_logits(tokens[:, :9], caches)
    first = model.next_logits(tokens[:, 9:10], caches)
    for cache in caches:
        cache.n_seen -= 1
    assert torch.equal(model.next_logits(tokens[:, 9:10], caches), first)


@every_kind
@torch.no_grad()
def test_bf16_decoding_keeps_a_bf16_cache(attention, positional):
    """A cache in fp32 would take twice the reported memory."""
    model = randomize(make_gpt(attention, positional))
    tokens = tokens_of(T)
    with torch.autocast("cpu", torch.bfloat16):
        got = decode(model, tokens, 3, dtype=torch.bfloat16).double()
    full = model.logits(tokens)[:, 2:].double()
    assert (got - full).norm() < 0.05 * full.norm()
    caches = [model.caches(B, T, dtype) for dtype in (torch.bfloat16, torch.float32)]
    assert 2 * caches[0][0].nbytes == caches[1][0].nbytes


@every_attention
def test_cache_rejects_a_second_prompt(attention):
    """A second prompt would attend to later positions of itself."""
    layer, positional = make_pair(attention, POSITIONALS[0])
    cache = layer.cache(B, T, torch.device("cpu"), torch.float32)
    layer(inputs()[:, :4], POSITIONS[:4], positional, cache)
    with pytest.raises(ValueError, match="one position at a time"):
        layer(inputs()[:, 4:6], POSITIONS[4:6], positional, cache)
