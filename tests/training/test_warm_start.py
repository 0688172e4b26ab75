"""A model that starts from another's weights must be that model where it can be, and say where it is not."""

import pytest
import torch

from harness.model.builder import ModelBuilder
from harness.model.initialization import IncompatibleWeightsError, init_parameters
from harness.model.weights import GPT2
from harness.results.records import VariantChoice
from variants.base import ModelShape

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=12, vocab_size=17)
D = SHAPE.head_dim


def make(positional="learned", attention="mha", seed=0, theirs=None, shape=SHAPE, **options):
    axes = GPT2 | {
        "positional": VariantChoice(name=positional, label="", options={}),
        "attention": VariantChoice(name=attention, label="", options=options),
    }
    model = ModelBuilder(shape, axes, []).model().to_empty(device="cpu")
    return model, init_parameters(model, seed, theirs)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def spread(model):
    """Give all weights values that tell wrong rows from right ones."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return weights(model)


@pytest.fixture
def theirs():
    return spread(make(seed=5)[0])


def logits(model):
    with torch.no_grad():
        return model.logits(torch.arange(SHAPE.seq_len)[None] % SHAPE.vocab_size)


def test_the_same_model_is_taken_over_whole(theirs):
    model, origin = make(theirs=theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in weights(model).items())
    assert origin == dict.fromkeys(theirs, "loaded")


def test_a_window_that_covers_the_sequence_goes_on_as_the_model_that_it_came_from(theirs):
    model, origin = make(attention="sliding_window", window=SHAPE.seq_len, theirs=theirs)
    torch.testing.assert_close(logits(model), logits(make(theirs=theirs)[0]))
    assert set(origin.values()) == {"loaded"}


def test_rope_drops_the_position_table_and_learned_positions_start_afresh_where_there_is_none(
    theirs,
):
    model, origin = make("rope", theirs=theirs)
    assert theirs.keys() - origin.keys() == {"positional.wpe.weight"} and set(origin.values()) == {
        "loaded"
    }
    back, origin = make("learned", theirs=weights(model), seed=3)
    assert [name for name, how in origin.items() if how == "fresh"] == ["positional.wpe.weight"]
    assert torch.equal(back.positional.wpe.weight, make(seed=3)[0].positional.wpe.weight)


def test_a_longer_table_is_cut(theirs):
    long = theirs | {"positional.wpe.weight": torch.randn(30, SHAPE.n_embd)}
    model, origin = make(theirs=long)
    assert torch.equal(model.positional.wpe.weight, long["positional.wpe.weight"][: SHAPE.seq_len])
    assert origin["positional.wpe.weight"] == "converted: the first 12 of 30 positions"


@pytest.mark.parametrize("kv", ["mean", "first"])
def test_pooling_heads_that_are_equal_within_their_group_changes_nothing(theirs, kv):
    """The group's query heads must get the heads of their own group, and k must not be taken for v."""
    for name in (
        "h.0.attn.c_attn.weight",
        "h.0.attn.c_attn.bias",
        "h.1.attn.c_attn.weight",
        "h.1.attn.c_attn.bias",
    ):
        for start in (SHAPE.n_embd, 2 * SHAPE.n_embd):  # of k and of v
            heads = theirs[name][start : start + SHAPE.n_embd].unflatten(0, (2, 2, D))
            heads[:, 1] = heads[:, 0]
    pooled, origin = make(attention="gqa", n_kv_head=2, kv_pooling=kv, theirs=theirs)
    torch.testing.assert_close(logits(pooled), logits(make(theirs=theirs)[0]), atol=1e-5, rtol=1e-5)
    assert (
        origin["h.1.attn.c_attn.weight"] == f"converted: q loaded, k and v the {kv} of each 2 heads"
    )
    assert {how for name, how in origin.items() if "c_attn" not in name} == {"loaded"}


def kv_rows(values, n_kv_head):
    return values[SHAPE.n_embd :].unflatten(0, (2, n_kv_head, D))  # (k or v, heads, D, ...)


@pytest.mark.parametrize("name", ["h.0.attn.c_attn.weight", "h.1.attn.c_attn.bias"])
def test_heads_are_pooled_as_stated_by_hand(theirs, name):
    old = kv_rows(theirs[name], 4)
    mean, first = (
        make(attention="gqa", n_kv_head=2, kv_pooling=kv, theirs=theirs)[0]
        for kv in ("mean", "first")
    )
    new = kv_rows(weights(mean)[name], 2)
    torch.testing.assert_close(new[:, 0], (old[:, 0] + old[:, 1]) / 2)
    torch.testing.assert_close(new[:, 1], (old[:, 2] + old[:, 3]) / 2)
    assert torch.equal(kv_rows(weights(first)[name], 2), old[:, [0, 2]])
    one = make(attention="mqa", kv_pooling="mean", theirs=theirs)[0]
    torch.testing.assert_close(kv_rows(weights(one)[name], 1)[:, 0], old.mean(1))


def test_random_heads_are_those_of_a_fresh_model_of_that_seed_and_queries_are_loaded(theirs):
    name = "h.0.attn.c_attn.weight"
    model, origin = make(attention="gqa", n_kv_head=2, kv_pooling="random", theirs=theirs, seed=3)
    fresh = make(attention="gqa", n_kv_head=2, seed=3)[0]
    assert torch.equal(weights(model)[name][SHAPE.n_embd :], weights(fresh)[name][SHAPE.n_embd :])
    assert torch.equal(weights(model)[name][: SHAPE.n_embd], theirs[name][: SHAPE.n_embd])
    assert origin[name] == "converted: q loaded, k and v fresh"


def test_fewer_groups_are_pooled_to_fewer_still_and_the_same_number_is_loaded(theirs):
    four = make(attention="gqa", n_kv_head=4, theirs=theirs)
    assert set(four[1].values()) == {"loaded"}
    two = make(attention="gqa", n_kv_head=2, kv_pooling="mean", theirs=theirs)[0]
    one = make(attention="mqa", theirs=weights(two))[0]
    at_once = make(attention="mqa", theirs=theirs)[0]
    torch.testing.assert_close(logits(one), logits(at_once), atol=1e-5, rtol=1e-5)


def test_all_that_does_not_fit_is_named_at_once(theirs):
    wrong = theirs | {
        "wte.weight": torch.zeros(9, SHAPE.n_embd),
        "h.0.mlp.c_fc.weight": torch.zeros(2, 2),
    }
    with pytest.raises(IncompatibleWeightsError) as raised:
        make(theirs=wrong)
    assert sorted(raised.value.problems) == [
        "h.0.mlp.c_fc.weight: (2, 2) there, (128, 32) here, and no conversion is defined",
        "wte.weight: (9, 32) in the checkpoint, (17, 32) here",
    ]


def test_a_variants_tensor_without_a_conversion_is_refused():
    mqa = weights(make(attention="mqa")[0])
    with pytest.raises(
        IncompatibleWeightsError,
        match=r"h.0.attn.c_attn.weight: \(48, 32\) there, \(96, 32\) here, and no conv",
    ):
        make(attention="mha", theirs=mqa)
