"""A model that starts from a checkpoint equals its source, or reports where it does not."""

import pytest
import torch

from harness.model.builder import ModelBuilder
from harness.model.initialization import IncompatibleWeightsError, init_parameters
from harness.model.weights import GPT2
from harness.results.records import VariantChoice
from variants.base import ModelShape

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=12, vocab_size=17)
D = SHAPE.head_dim


def make(positional="learned", attention="mha", seed=0, source=None, shape=SHAPE, **options):
    axes = GPT2 | {
        "positional": VariantChoice(name=positional, label="", options={}),
        "attention": VariantChoice(name=attention, label="", options=options),
    }
    model = ModelBuilder(shape, axes, []).model().to_empty(device="cpu")
    return model, init_parameters(model, seed, source)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def randomize(model):
    """Give all weights values that differ in every row."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return weights(model)


@pytest.fixture
def source():
    return randomize(make(seed=5)[0])


def logits(model):
    with torch.no_grad():
        return model.logits(torch.arange(SHAPE.seq_len)[None] % SHAPE.vocab_size)


def test_same_model_is_loaded_completely(source):
    model, origin = make(source=source)
    assert all(torch.equal(value, source[name]) for name, value in weights(model).items())
    assert origin == dict.fromkeys(source, "loaded")


def test_full_length_window_computes_the_source_model(source):
    model, origin = make(attention="sliding_window", window=SHAPE.seq_len, source=source)
    torch.testing.assert_close(logits(model), logits(make(source=source)[0]))
    assert set(origin.values()) == {"loaded"}


def test_position_table_is_dropped_or_initialized(source):
    model, origin = make("rope", source=source)
    assert source.keys() - origin.keys() == {"positional.wpe.weight"}
    assert set(origin.values()) == {"loaded"}
    back, origin = make("learned", source=weights(model), seed=3)
    assert [name for name, how in origin.items() if how == "fresh"] == ["positional.wpe.weight"]
    assert torch.equal(back.positional.wpe.weight, make(seed=3)[0].positional.wpe.weight)


def test_longer_position_table_is_truncated(source):
    long = source | {"positional.wpe.weight": torch.randn(30, SHAPE.n_embd)}
    model, origin = make(source=long)
    assert torch.equal(model.positional.wpe.weight, long["positional.wpe.weight"][: SHAPE.seq_len])
    assert origin["positional.wpe.weight"] == "converted: the first 12 of 30 positions"


@pytest.mark.parametrize("kv", ["mean", "first"])
def test_pooling_equal_heads_keeps_the_logits(source, kv):
    """Query heads must read the key-value head of their own group, and k must not become v."""
    for name in (
        "h.0.attn.c_attn.weight",
        "h.0.attn.c_attn.bias",
        "h.1.attn.c_attn.weight",
        "h.1.attn.c_attn.bias",
    ):
        for start in (SHAPE.n_embd, 2 * SHAPE.n_embd):  # of k and of v
            heads = source[name][start : start + SHAPE.n_embd].unflatten(0, (2, 2, D))
            heads[:, 1] = heads[:, 0]
    pooled, origin = make(attention="gqa", n_kv_head=2, kv_pooling=kv, source=source)
    torch.testing.assert_close(logits(pooled), logits(make(source=source)[0]), atol=1e-5, rtol=1e-5)
    converted = f"converted: q loaded, k and v the {kv} of each 2 heads"
    assert origin["h.1.attn.c_attn.weight"] == converted
    assert {how for name, how in origin.items() if "c_attn" not in name} == {"loaded"}


def kv_rows(values, n_kv_head):
    return values[SHAPE.n_embd :].unflatten(0, (2, n_kv_head, D))  # (k or v, heads, D, ...)


@pytest.mark.parametrize("name", ["h.0.attn.c_attn.weight", "h.1.attn.c_attn.bias"])
def test_heads_are_pooled_as_by_hand(source, name):
    old = kv_rows(source[name], 4)
    mean, first = (
        make(attention="gqa", n_kv_head=2, kv_pooling=kv, source=source)[0]
        for kv in ("mean", "first")
    )
    new = kv_rows(weights(mean)[name], 2)
    torch.testing.assert_close(new[:, 0], (old[:, 0] + old[:, 1]) / 2)
    torch.testing.assert_close(new[:, 1], (old[:, 2] + old[:, 3]) / 2)
    assert torch.equal(kv_rows(weights(first)[name], 2), old[:, [0, 2]])
    one = make(attention="mqa", kv_pooling="mean", source=source)[0]
    torch.testing.assert_close(kv_rows(weights(one)[name], 1)[:, 0], old.mean(1))


def test_random_kv_heads_follow_the_seed_and_q_is_loaded(source):
    name = "h.0.attn.c_attn.weight"
    model, origin = make(attention="gqa", n_kv_head=2, kv_pooling="random", source=source, seed=3)
    fresh = make(attention="gqa", n_kv_head=2, seed=3)[0]
    assert torch.equal(weights(model)[name][SHAPE.n_embd :], weights(fresh)[name][SHAPE.n_embd :])
    assert torch.equal(weights(model)[name][: SHAPE.n_embd], source[name][: SHAPE.n_embd])
    assert origin[name] == "converted: q loaded, k and v fresh"


def test_pooling_in_two_stages_equals_pooling_at_once(source):
    four = make(attention="gqa", n_kv_head=4, source=source)
    assert set(four[1].values()) == {"loaded"}
    two = make(attention="gqa", n_kv_head=2, kv_pooling="mean", source=source)[0]
    one = make(attention="mqa", source=weights(two))[0]
    at_once = make(attention="mqa", source=source)[0]
    torch.testing.assert_close(logits(one), logits(at_once), atol=1e-5, rtol=1e-5)


def test_all_incompatible_tensors_are_reported_at_once(source):
    wrong = source | {
        "wte.weight": torch.zeros(9, SHAPE.n_embd),
        "h.0.mlp.c_fc.weight": torch.zeros(2, 2),
    }
    with pytest.raises(IncompatibleWeightsError) as raised:
        make(source=wrong)
    assert sorted(raised.value.problems) == [
        "h.0.mlp.c_fc.weight: (2, 2) there, (128, 32) here, and no conversion is defined",
        "wte.weight: (9, 32) in the checkpoint, (17, 32) here",
    ]


def test_tensor_without_a_conversion_is_rejected():
    mqa = weights(make(attention="mqa")[0])
    with pytest.raises(
        IncompatibleWeightsError,
        match=r"h.0.attn.c_attn.weight: \(48, 32\) there, \(96, 32\) here, and no conv",
    ):
        make(attention="mha", source=mqa)
