"""Attention: the variants meet where they should, and their FLOPs are those counted by hand."""

import pytest
import torch
from torch import nn

from variants import catalogue
from variants.api import Shape

SHAPE = Shape(n_layer=2, n_head=4, n_embd=32, seq_len=24, vocab_size=13)
T, C, H, D = SHAPE.seq_len, SHAPE.n_embd, SHAPE.n_head, SHAPE.head_dim


def make(name, **options):
    cls = catalogue.load("attention", name)
    layer = cls(SHAPE, cls.Options(**options), 0)
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return layer


def rope():
    cls = catalogue.load("positional", "rope")
    return cls(SHAPE, cls.Options())


def run(layer):
    x = torch.randn(2, T, C, generator=torch.Generator().manual_seed(2), requires_grad=True)
    y = layer(x, torch.arange(T), rope())
    return [y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize(("one", "other"), [("gqa", "mha"), ("mqa", "gqa")])
def test_grouped_queries_span_from_multi_query_to_multi_head(one, other):
    """The ends of the scale are the other two variants, bit for bit: the same points, measured once or twice."""
    options = {"mha": {}, "mqa": {}, "gqa": {"n_kv_head": H if one == "gqa" else 1}}
    first, second = make(one, **options[one]), make(other, **options[other])
    second.load_state_dict(first.state_dict())
    for a, b in zip(run(first), run(second), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("n_kv_head", [1, 2])
def test_a_group_shares_the_keys_and_values_of_its_head(n_kv_head):
    """Heads h G // H .. share a key-value head: what converted checkpoints and the paper's figure 2 assume."""
    grouped, full = make("gqa", n_kv_head=n_kv_head), make("mha")

    def repeated(rows):
        return rows.unflatten(0, (n_kv_head, D)).repeat_interleave(H // n_kv_head, dim=0).flatten(0, 1)

    with torch.no_grad():
        for name, parameter in full.c_attn.named_parameters():
            q, k, v = getattr(grouped.c_attn, name).split((C, n_kv_head * D, n_kv_head * D))
            parameter.copy_(torch.cat((q, repeated(k), repeated(v))))
        full.c_proj.load_state_dict(grouped.c_proj.state_dict())
    torch.testing.assert_close(run(grouped)[0], run(full)[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "flops"),
    [
        # 2 FLOPs per weight: c_attn has C rows of q and D of k and v for each key-value head; c_proj C x C.
        # 4 C FLOPs for each visible key, of which there are 12.5 in the mean over 24 positions.
        ("mha", {}, 2 * (96 * 32 + 32 * 32) + 4 * 32 * 12.5),
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
        ("sliding_window", {"window": 0}, "window", "0: must be at least 1"),
        ("sliding_window", {"window": -1}, "window", "-1: must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(name, options, key, reason):
    cls = catalogue.load("attention", name)
    assert cls.check(SHAPE, cls.Options(**options)) == {key: reason}


# -- what decoding keeps ---------------------------------------------------------------------------------------------


def cache_bytes(name, length, **options):
    return make(name, **options).cache(2, length, torch.device("cpu"), torch.float32).nbytes


def test_a_cache_holds_keys_and_values_of_the_key_value_heads_and_nothing_else():
    """This is what grouped queries were invented for: their cache is smaller in proportion to their heads."""
    mha = cache_bytes("mha", 24)
    assert mha == 2 * 2 * SHAPE.n_embd * 24 * 4
    for n in (1, 2):
        assert cache_bytes("gqa", 24, n_kv_head=n) * SHAPE.n_head == mha * n
    assert cache_bytes("mqa", 24) * SHAPE.n_head == mha


def test_a_window_keeps_as_much_however_long_the_text():
    sizes = {cache_bytes("sliding_window", length, window=5) for length in (5, 24, 1000, 100_000)}
    assert sizes == {cache_bytes("mha", 5)}
    assert cache_bytes("sliding_window", 3, window=5) == cache_bytes("mha", 3)


@torch.no_grad()
def test_a_full_cache_slides_on_as_a_window_of_its_length():
    """Past its context a model with relative positions goes on writing: it sees the last `length` positions."""
    full, sliding, positional = make("mha"), make("sliding_window", window=7), rope()
    x, cache = torch.randn(2, 40, SHAPE.n_embd), full.cache(2, 7, torch.device("cpu"), torch.float32)
    pieces = [x[:, :4], *x[:, 4:].split(1, dim=1)]
    starts = [0, *range(4, 40)]
    out = [
        full(piece, torch.arange(start, start + piece.shape[1]), positional, cache)
        for start, piece in zip(starts, pieces, strict=True)
    ]
    torch.testing.assert_close(torch.cat(out, 1), sliding(x, torch.arange(40), positional), atol=1e-5, rtol=1e-5)
