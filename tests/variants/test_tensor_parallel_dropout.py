"""Dropout of tensor parallelism: independent masks of all heads, equal ones of what is replicated.

If these failed, heads of different processes would drop the same weights, or the processes would
train replicated activations that differ.
"""

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F

from harness.model.builder import ModelBuilder
from harness.model.initialization import init_parameters
from harness.results.records import VariantChoice
from harness.training.seeding import seed_step
from variants import registry
from variants.base import ModelShape
from variants.mlp.gelu import Gelu
from variants.parallelism import _collective, _tensor

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=12, vocab_size=17, dropout=0.4)
OPTIONS = {"n_kv_head": 2, "window": 5}  # of those without a default
MORE = {"mla": {"q_rank": 8}}
B = 3
MIN_ELEMENTS = 64  # of a mask: smaller ones may be equal by chance
T = SHAPE.seq_len


def builder(attention, options, mlp="gelu"):
    mlp_options = {"width": 96} if mlp in registry.files("mlp") else {}
    axes = {
        "attention": VariantChoice(name=attention, label=attention, options=options),
        "mlp": VariantChoice(name=mlp, label=mlp, options=mlp_options),
    }
    return ModelBuilder(SHAPE, axes, [])


def attention_cases():
    """Return each attention that two or four processes can share, with its options."""
    cases = []
    for name in registry.files("attention"):
        fields = dataclasses.fields(registry.load("attention", name).Options)
        options = {field.name: OPTIONS[field.name] for field in fields if field.name in OPTIONS}
        options |= MORE.get(name, {})
        for world_size in (2, 4):
            make = builder(name, options).model
            if not _tensor.why_unsupported(make, world_size):
                cases.append(pytest.param(name, options, world_size, id=f"{name}-{world_size}"))
    dilated = {"window": 2, "head_dilation": [1, 2, 1, 3]}
    cases.append(pytest.param("sliding_window", dilated, 2, id="head_dilation-2"))
    return cases


@pytest.fixture
def masks(monkeypatch):
    """Return a list of the masks of all calls of dropout; fused attention is computed unfused."""
    found = []
    dropout = F.dropout

    def recording(x, p=0.5, training=True, inplace=False):
        if not training or p == 0:
            return x
        mask = dropout(torch.ones_like(x), p, True)
        found.append((mask != 0).detach())
        return x * mask

    def attention(q, k, v, mask=None, dropout=0.0, is_causal=False, scale=None, enable_gqa=False):
        if enable_gqa:
            k = k.repeat_interleave(q.shape[-3] // k.shape[-3], dim=-3)
            v = v.repeat_interleave(q.shape[-3] // v.shape[-3], dim=-3)
        scores = q @ k.mT * (scale or q.shape[-1] ** -0.5)
        return recording(scores.softmax(-1), dropout) @ v

    monkeypatch.setattr(F, "dropout", recording)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    monkeypatch.setattr(_collective, "all_reduce", lambda x, *_: x.clone())
    return found


def masks_of_rank(masks, make, rank, world_size, step=0, n_passes=1):
    """Return the masks of the forward passes of one rank of a group."""
    model = make()
    whole = make()
    if world_size > 1:
        _tensor.shard_model(model, rank, world_size)
    model.to_empty(device="cpu")
    init_parameters(model, 0, full_model=whole)
    tokens = torch.zeros(B, T, dtype=torch.long)
    seed_step(0, step, rank=0)
    masks.clear()
    for _ in range(n_passes):
        model(tokens, tokens).mean().backward()
    return list(masks)


def split(masks):
    """Return the masks of residual activations, and those of heads as one tensor for each head."""
    replicated = [mask for mask in masks if mask.shape == (B, T, SHAPE.n_embd)]
    sharded = [mask for mask in masks if mask.shape != (B, T, SHAPE.n_embd)]
    return replicated, sharded


@pytest.mark.parametrize(("attention", "options", "world_size"), attention_cases())
def test_heads_differ_and_replicated_activations_agree(masks, attention, options, world_size):
    make = builder(attention, options).model
    by_rank = [split(masks_of_rank(masks, make, rank, world_size)) for rank in range(world_size)]
    for replicated, _ in by_rank[1:]:
        assert len(replicated) == 1 + 2 * SHAPE.n_layer
        for mine, first in zip(replicated, by_rank[0][0], strict=True):
            assert torch.equal(mine, first)
    for one, two in itertools.combinations(by_rank[0][0], 2):
        assert not torch.equal(one, two)
    calls = [sharded for _, sharded in by_rank]
    assert all(calls), "no dropout in the attention"
    n_local = SHAPE.n_head // world_size
    heads = []
    for sharded in calls:
        for mask in sharded:
            heads.extend(head for head in heads_of(mask, n_local) if head.numel() >= MIN_ELEMENTS)
    assert len(heads) >= SHAPE.n_head
    for one, two in itertools.combinations(heads, 2):
        if one.shape == two.shape:
            assert not torch.equal(one, two)


def heads_of(mask, n_local):
    """Return the mask of each head: (B, H, T, T), or sequences of blocks, (B x H x R, N, Q, K)."""
    if mask.shape[0] == B and mask.shape[1] <= n_local:
        return list(mask.unbind(1))
    n_heads = max(1, mask.shape[0] // B)
    return list(mask.unflatten(0, (B, n_heads)).unbind(1))


class InnerDropout(Gelu):
    """An MLP that drops hidden channels, as a user's may."""

    def activation(self, x):
        return F.dropout(F.gelu(x), self.dropout, self.training)


@pytest.mark.parametrize("mlp", [*registry.files("mlp"), "inner"])
def test_hidden_channels_of_an_mlp_differ(masks, monkeypatch, mlp):
    make_builder = builder("mha", {}, "gelu" if mlp == "inner" else mlp)
    if mlp == "inner":
        _, options = make_builder.variants["mlp"]
        monkeypatch.setitem(make_builder.variants, "mlp", (InnerDropout, options))
    replicated, sharded = zip(
        *(split(masks_of_rank(masks, make_builder.model, rank, 2)) for rank in range(2)),
        strict=True,
    )
    for one, two in zip(*replicated, strict=True):
        assert torch.equal(one, two)
    n_hidden = 1 if mlp == "inner" else 0
    assert [len(masks) for masks in sharded] == [SHAPE.n_layer * (1 + n_hidden)] * 2
    for one, two in zip(*sharded, strict=True):
        assert not torch.equal(one, two)


def test_masks_are_those_of_the_step(masks):
    """A resumed run repeats a step: its masks depend on the step and nothing before it."""
    make = builder("mha", {}).model
    first = masks_of_rank(masks, make, 1, 2, n_passes=2)
    torch.rand(7)
    again = masks_of_rank(masks, make, 1, 2, n_passes=2)
    other = masks_of_rank(masks, make, 1, 2, step=1, n_passes=2)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first, other, strict=True))
    n = len(first) // 2
    for one, two in zip(first[:n], first[n:], strict=True):
        assert not torch.equal(one, two), "micro-batches have masks of their own"


def test_evaluation_draws_no_random_numbers():
    model = builder("mha", {}).model()
    _tensor.shard_model(model, 1, 2)
    model.to_empty(device="cpu").eval()
    state = torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(_collective, "all_reduce", lambda x, *_: x.clone())
        model(torch.zeros(B, T, dtype=torch.long), torch.zeros(B, T, dtype=torch.long))
    assert torch.equal(torch.get_rng_state(), state)
