"""Attention variants: relations between them, options, and FLOPs counted by hand."""

import pytest
import torch
from torch import nn

from harness.model.initialization import init_parameters
from variants import registry
from variants.base import ModelShape

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=24, vocab_size=13)
T, C, H, D = SHAPE.seq_len, SHAPE.n_embd, SHAPE.n_head, SHAPE.head_dim


def make(name, **options):
    cls = registry.load("attention", name)
    layer = cls(SHAPE, cls.Options(**options), 0)
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return layer


def rope():
    cls = registry.load("positional", "rope")
    return cls(SHAPE, cls.Options())


def run(layer):
    x = torch.randn(2, T, C, generator=torch.Generator().manual_seed(2), requires_grad=True)
    y = layer(x, torch.arange(T), rope())
    return [y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])]


with_and_without_options = pytest.mark.parametrize(
    "shared",
    [{}, {"qk_norm": True}, {"logit_softcap": 3.0}, {"qk_norm": True, "logit_softcap": 3.0}],
    ids=str,
)


@with_and_without_options
@pytest.mark.parametrize(("one", "other"), [("gqa", "mha"), ("mqa", "gqa")])
def test_gqa_spans_mqa_to_mha(one, other, shared):
    """With 1 and n_head key-value heads, gqa is mqa and mha bit for bit."""
    options = {"mha": {}, "mqa": {}, "gqa": {"n_kv_head": H if one == "gqa" else 1}}
    first, second = make(one, **options[one], **shared), make(other, **options[other], **shared)
    second.load_state_dict(first.state_dict())
    for a, b in zip(run(first), run(second), strict=True):
        assert torch.equal(a, b)


@with_and_without_options
@pytest.mark.parametrize("n_kv_head", [1, 2])
def test_group_shares_the_keys_and_values_of_its_head(n_kv_head, shared):
    """Query head h uses head h G // H, as converted checkpoints and the paper's figure 2 do."""
    grouped, full = make("gqa", n_kv_head=n_kv_head, **shared), make("mha", **shared)
    full.load_state_dict(
        {k: v for k, v in grouped.state_dict().items() if "norm" in k}, strict=False
    )

    def repeated(rows):
        return (
            rows.unflatten(0, (n_kv_head, D)).repeat_interleave(H // n_kv_head, dim=0).flatten(0, 1)
        )

    with torch.no_grad():
        for name, parameter in full.c_attn.named_parameters():
            q, k, v = getattr(grouped.c_attn, name).split((C, n_kv_head * D, n_kv_head * D))
            parameter.copy_(torch.cat((q, repeated(k), repeated(v))))
        full.c_proj.load_state_dict(grouped.c_proj.state_dict())
    torch.testing.assert_close(run(grouped)[0], run(full)[0], atol=1e-6, rtol=1e-6)


# -- qk_norm and logit_softcap ---------------------------------------------------------------------


def test_qk_norm_makes_scores_independent_of_weight_scale():
    """`qk_norm` bounds the scores: larger weights of q and k must change nothing."""
    for name, changes in (("mha", False), ("mha", True), ("sliding_window", True), ("gqa", True)):
        options = {"sliding_window": {"window": 5}, "gqa": {"n_kv_head": 2}}.get(name, {})
        layer = make(name, **options, qk_norm=changes)
        before = run(layer)[0]
        with torch.no_grad():
            for parameter in layer.c_attn.parameters():
                parameter[: len(parameter) - layer.kv_width] *= 1000  # of q and k
        after = run(layer)[0]
        assert torch.allclose(after, before, atol=1e-4) == changes


def test_qk_norm_gain_starts_at_one_and_is_trained():
    plain, normed = make("mha"), make("mha", qk_norm=True)
    for layer in (plain, normed):
        init_parameters(nn.ModuleDict({"attn": layer}), seed=0)
    assert normed.state_dict().keys() - plain.state_dict().keys() == {
        "q_norm.weight",
        "k_norm.weight",
    }
    for name, value in plain.state_dict().items():
        assert torch.equal(value, normed.state_dict()[name]), name
    for norm in (normed.q_norm, normed.k_norm):
        assert torch.equal(norm.weight, torch.ones(D))
    grads = dict(zip(["x", *dict(normed.named_parameters())], run(normed)[1:], strict=True))
    assert grads["q_norm.weight"].any() and grads["k_norm.weight"].any()


def test_qk_norm_keeps_precision():
    """In fp32, q and k would leave the fused bf16 kernel and take twice the memory."""
    layer = make("mha", qk_norm=True)
    for norm in (layer.q_norm, layer.k_norm):
        assert norm(torch.randn(2, H, T, D, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_softcap_is_neutral_if_large_and_flattens_if_small():
    plain, large, small = (
        make("mha"),
        make("mha", logit_softcap=1e4),
        make("mha", logit_softcap=1e-3),
    )
    assert not list(large.parameters())[len(list(plain.parameters())) :], "no parameters of its own"
    for found, right in zip(run(large), run(plain), strict=True):
        torch.testing.assert_close(found, right, atol=1e-3, rtol=1e-3)
    x = torch.randn(1, T, C)
    v = small.c_attn(x)[..., 2 * C :]
    mean = small.c_proj(v.cumsum(1) / torch.arange(1, T + 1)[:, None])
    torch.testing.assert_close(small(x, torch.arange(T), rope()), mean, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
def test_softcap_equals_gemma2(n_kv_head):
    """The bound lies on scores that are scaled already, and the mask is added after it."""
    gemma = pytest.importorskip("transformers.models.gemma2.modeling_gemma2")
    layer = make("gqa", n_kv_head=n_kv_head, logit_softcap=5.0).eval()
    layer.num_key_value_groups = H // n_kv_head
    generator = torch.Generator().manual_seed(5)
    q, k, v = (3 * torch.randn(2, n, T, D, generator=generator) for n in (H, n_kv_head, n_kv_head))
    mask = torch.full((T, T), -torch.inf).triu(1)
    theirs = gemma.eager_attention_forward(layer, q, k, v, mask, scaling=D**-0.5, softcap=5.0)[
        0
    ].transpose(1, 2)
    for found in (layer.scores(q, k, v, mask), layer.scores(q, k, v, None, is_causal=True)):
        torch.testing.assert_close(found, theirs, atol=1e-5, rtol=1e-5)


# -- FLOPs and rejected options --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "flops"),
    [
        # 2 FLOPs per weight: c_attn has C rows of q and 2 D per key-value head; c_proj is C x C.
        # 4 C FLOPs for each visible key, of which there are 12.5 in the mean over 24 positions.
        ("mha", {}, 2 * (96 * 32 + 32 * 32) + 4 * 32 * 12.5),
        ("mha", {"qk_norm": True, "logit_softcap": 5.0}, 2 * (96 * 32 + 32 * 32) + 4 * 32 * 12.5),
        ("gqa", {"n_kv_head": 2}, 2 * (64 * 32 + 32 * 32) + 4 * 32 * 12.5),
        ("mqa", {}, 2 * (48 * 32 + 32 * 32) + 4 * 32 * 12.5),
        ("sliding_window", {"window": 1}, 8192 + 4 * 32 * 1),
        ("sliding_window", {"window": 5}, 8192 + 4 * 32 * (1 + 2 + 3 + 4 + 5 * 20) / 24),
        ("sliding_window", {"window": 24}, 8192 + 4 * 32 * 12.5),
        ("sliding_window", {"window": 99}, 8192 + 4 * 32 * 12.5),
    ],
)
def test_flops_per_token_by_hand(name, options, flops):
    assert make(name, **options).flops_per_token(T) == pytest.approx(flops, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "key", "reason"),
    [
        ("gqa", {"n_kv_head": 3}, "n_kv_head", "3 does not divide n_head = 4; allowed: 1, 2, 4"),
        ("gqa", {"n_kv_head": 8}, "n_kv_head", "8 does not divide n_head = 4; allowed: 1, 2, 4"),
        ("gqa", {"n_kv_head": 0}, "n_kv_head", "0: must be at least 1"),
        ("mha", {"logit_softcap": -1.0}, "logit_softcap", "-1.0: must be positive, or 0 for none"),
        (
            "gqa",
            {"n_kv_head": 2, "logit_softcap": -1.0},
            "logit_softcap",
            "-1.0: must be positive, or 0 for none",
        ),
        ("mqa", {"logit_softcap": -1.0}, "logit_softcap", "-1.0: must be positive, or 0 for none"),
        (
            "sliding_window",
            {"window": 5, "logit_softcap": -1.0},
            "logit_softcap",
            "-1.0: must be positive, or 0 for none",
        ),
        ("sliding_window", {"window": 0}, "window", "0: must be at least 1"),
        ("sliding_window", {"window": -1}, "window", "-1: must be at least 1"),
    ],
)
def test_invalid_options_are_rejected_with_the_reason(name, options, key, reason):
    cls = registry.load("attention", name)
    assert cls.check(SHAPE, cls.Options(**options)) == {key: reason}


# -- cache -----------------------------------------------------------------------------------------


def cache_bytes(name, length, **options):
    return make(name, **options).cache(2, length, torch.device("cpu"), torch.float32).nbytes


def test_cache_size_is_that_of_the_key_value_heads():
    """The purpose of grouped queries: the cache shrinks with the number of key-value heads."""
    mha = cache_bytes("mha", 24)
    assert mha == 2 * 2 * SHAPE.n_embd * 24 * 4
    for n in (1, 2):
        assert cache_bytes("gqa", 24, n_kv_head=n) * SHAPE.n_head == mha * n
    assert cache_bytes("mqa", 24) * SHAPE.n_head == mha


def test_window_cache_does_not_grow_with_the_text():
    sizes = {cache_bytes("sliding_window", length, window=5) for length in (5, 24, 1000, 100_000)}
    assert sizes == {cache_bytes("mha", 5)}
    assert cache_bytes("sliding_window", 3, window=5) == cache_bytes("mha", 3)


@torch.no_grad()
def test_full_cache_equals_a_window_of_its_length():
    """Beyond its context, a model with relative positions sees the last `length` positions."""
    full, sliding, positional = make("mha"), make("sliding_window", window=7), rope()
    x, cache = (
        torch.randn(2, 40, SHAPE.n_embd),
        full.cache(2, 7, torch.device("cpu"), torch.float32),
    )
    pieces = [x[:, :4], *x[:, 4:].split(1, dim=1)]
    starts = [0, *range(4, 40)]
    out = [
        full(piece, torch.arange(start, start + piece.shape[1]), positional, cache)
        for start, piece in zip(starts, pieces, strict=True)
    ]
    torch.testing.assert_close(
        torch.cat(out, 1), sliding(x, torch.arange(40), positional), atol=1e-5, rtol=1e-5
    )
