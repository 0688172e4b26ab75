"""Parameters that two variants share start bit-identical, on any number of processes."""

import hashlib

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from harness.model.builder import ModelBuilder
from harness.model.initialization import (
    UndeclaredError,
    check_same_parameters,
    init_parameters,
    init_specs,
    sample_init,
)
from harness.results.records import VariantChoice
from variants.base import InitSpec, ModelShape, Part

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=16, vocab_size=29)


def make(seed=0, shape=SHAPE, attention="mha", positional="learned", **options):
    axes = {
        "positional": VariantChoice(name=positional, label=positional, options={}),
        "attention": VariantChoice(name=attention, label=attention, options=options),
    }
    model = ModelBuilder(shape, axes, []).model().to_empty(device="cpu")
    init_parameters(model, seed)
    return dict(model.named_parameters())


def test_values_depend_only_on_seed_name_and_shape():
    initial = InitSpec(std=0.02)
    value = sample_init(initial, 0, "h.0.mlp.c_fc.weight", (8, 4))
    sample_init(initial, 5, "something else", (100,))
    np.random.seed(1)
    torch.manual_seed(1)
    assert np.array_equal(sample_init(initial, 0, "h.0.mlp.c_fc.weight", (8, 4)), value)
    others = [
        sample_init(initial, 1, "h.0.mlp.c_fc.weight", (8, 4)),
        sample_init(initial, 0, "h.1.mlp.c_fc.weight", (8, 4)),
        sample_init(initial, 0, "h.0.mlp.c_fc.weight", (4, 8)).reshape(8, 4),
    ]
    for other in others:
        assert abs(np.corrcoef(other.ravel(), value.ravel())[0, 1]) < 0.6
        assert not np.isin(other, value).any()


def test_values_are_those_of_earlier_results():
    """If they change, results can neither be resumed nor compared with earlier ones."""
    value = sample_init(
        InitSpec(std=0.02, blocks=(("q", 3), ("k", 2))), 42, "h.0.attn.c_attn.weight", (5, 7)
    )
    assert value.dtype == np.float32 and value.shape == (5, 7)
    assert (
        hashlib.sha256(value.tobytes()).hexdigest()
        == "11c1c3dbed17814c145456cdbfb868e404e74db51a231a5465cac038cb372ad3"
    )


def test_a_constant_init_has_that_value():
    assert np.array_equal(
        sample_init(InitSpec(value=1.0), 0, "ln_f.weight", (3,)), np.ones(3, np.float32)
    )


@pytest.mark.parametrize(
    ("attention", "options"),
    [("gqa", {"n_kv_head": 2}), ("mqa", {}), ("sliding_window", {"window": 4})],
)
def test_a_variant_shares_initial_values_with_the_baseline(attention, options):
    """Paired differences measure the variant, not another draw; q counts in any matrix."""
    baseline, variant = make(), make(attention=attention, **options)
    assert baseline.keys() == variant.keys()
    for name, value in baseline.items():
        if "c_attn" in name:
            assert torch.equal(value[: SHAPE.n_embd], variant[name][: SHAPE.n_embd]), name
        else:
            assert torch.equal(value, variant[name]), name


def test_another_positional_leaves_other_parameters_unchanged():
    learned, rope = make(), make(positional="rope")
    assert learned.keys() - rope.keys() == {"positional.wpe.weight"}
    assert all(torch.equal(learned[name], value) for name, value in rope.items())


def test_seeds_layers_and_blocks_differ():
    one, two = make(0), make(1)
    assert not torch.equal(one["wte.weight"], two["wte.weight"])
    assert not torch.equal(one["h.0.attn.c_attn.weight"], one["h.1.attn.c_attn.weight"])
    q, k, v = one["h.0.attn.c_attn.weight"].split(32)
    assert not torch.equal(q, k) and not torch.equal(k, v)


def test_an_undeclared_parameter_is_rejected_by_name():
    """It would start from uninitialized memory, different on each rank."""

    class Scaled(Part):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.empty(3))

    model = nn.ModuleDict({"attn": Scaled()})
    with pytest.raises(
        UndeclaredError,
        match=r"parameter attn\.gain of Scaled: no initial values; declare them in",
    ):
        init_parameters(model, 0)
    Scaled.init_specs = lambda self: {"gain": InitSpec(value=2.0)}
    init_parameters(model, 0)
    assert torch.equal(model["attn"].gain, torch.full((3,), 2.0))


def test_the_innermost_declaration_counts():
    """An inner variant declares its own parameters, the outer one the others."""

    class Inner(Part, nn.Linear):
        def init_specs(self):
            return {"weight": InitSpec(value=1.0)}

    class Outer(Part):
        def __init__(self):
            super().__init__()
            self.inner = Inner(2, 2)
            self.plain = nn.Linear(2, 2)

        def init_specs(self):
            return {"inner.weight": InitSpec(value=3.0), "plain.weight": InitSpec(value=3.0)}

    found = init_specs(nn.ModuleDict({"outer": Outer()}))
    assert found["outer.inner.weight"] == InitSpec(value=1.0)
    assert found["outer.plain.weight"] == InitSpec(value=3.0)
    assert found["outer.plain.bias"] == InitSpec(value=0.0)
    assert init_specs(Outer())["inner.weight"] == InitSpec(value=1.0)


def test_the_hash_covers_names_and_values(ranks):
    def linear():
        module = nn.Linear(2, 2)
        init_parameters(module, 0)
        return module

    one, two = linear(), linear()
    assert check_same_parameters(one, ranks) == check_same_parameters(two, ranks)
    two.bias.data[1] = torch.finfo(torch.float32).tiny
    assert check_same_parameters(one, ranks) != check_same_parameters(two, ranks)
    renamed = nn.ModuleDict({"a": one})
    assert check_same_parameters(renamed, ranks) != check_same_parameters(one, ranks)


def test_ranks_with_different_parameters_are_stopped(ranks, monkeypatch):
    """Otherwise the loss still falls, although the ranks train different models."""

    def gather(hashes, own, group):
        hashes[:] = [own, "f" * 64]

    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    model = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="ranks start from different parameters"):
        check_same_parameters(model, ranks)
