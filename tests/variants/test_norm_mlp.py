"""Norms and MLPs: the papers' formulas in float64, and the stated sizes."""

import math

import pytest
import torch
from torch import nn

from harness.model.builder import ModelBuilder
from harness.model.initialization import IncompatibleWeightsError, init_parameters
from harness.results.records import VariantChoice
from variants import registry
from variants.base import ModelShape

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=24, vocab_size=13)
C = SHAPE.n_embd


def make(axis, name, shape=SHAPE, **options):
    cls = registry.load(axis, name)
    part = cls(shape, cls.Options(**options))
    generator = torch.Generator().manual_seed(1)
    for parameter in part.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return part


def inputs(seed=2):
    return torch.randn(3, 7, C, generator=torch.Generator().manual_seed(seed))


def values(part):
    return {name: value.double() for name, value in part.named_parameters()}


def agree(part, formula, x):
    """Compare outputs and all gradients with those of a formula in float64."""
    x.requires_grad_()
    y, expected = part(x), formula(values(part), x.double())
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    wanted = [x, *part.parameters()]
    got, right = (torch.autograd.grad((z * inputs(3)).sum(), wanted) for z in (y, expected))
    for one, other in zip(got, right, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


# -- norms -----------------------------------------------------------------------------------------


def layernorm(p, x):
    mean = x.sum(-1, keepdim=True) / C
    variance = (x - mean).square().sum(-1, keepdim=True) / C
    return (x - mean) / (variance + 1e-5).sqrt() * p["weight"] + p["bias"]


def rmsnorm(p, x):
    return x / (x.square().sum(-1, keepdim=True) / C + 1e-5).sqrt() * p["weight"]


@pytest.mark.parametrize(
    "scale", [1.0, 1e-3, 100.0]
)  # at 1e-3, epsilon is ten times what it is added to
@pytest.mark.parametrize(("name", "formula"), [("layernorm", layernorm), ("rmsnorm", rmsnorm)])
def test_norm_equals_its_formula(name, formula, scale):
    """Epsilon too: another one is another model wherever activations are small."""
    with torch.no_grad():
        x = scale * (inputs() + 0.5)
    part = make("norm", name)
    torch.testing.assert_close(
        part(x).double(), formula(values(part), x.double()), atol=1e-5, rtol=1e-5
    )
    if scale == 1.0:
        agree(part, formula, x)


def test_only_layernorm_removes_the_mean():
    """The only difference: without its bias, layernorm is rmsnorm after removing the mean."""
    layer, rms = make("norm", "layernorm"), make("norm", "rmsnorm")
    rms.load_state_dict({"weight": layer.weight})
    nn.init.zeros_(layer.bias)
    x = inputs()
    torch.testing.assert_close(
        layer(x + 3), rms(x - x.mean(-1, keepdim=True)), atol=1e-5, rtol=1e-4
    )
    assert (rms(x + 3) - rms(x)).abs().max() > 0.1


def test_rmsnorm_equals_llama():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    part = make("norm", "rmsnorm")
    theirs = llama.LlamaRMSNorm(C, eps=1e-5)
    theirs.load_state_dict(part.state_dict())
    torch.testing.assert_close(part(inputs()), theirs(inputs()), atol=1e-6, rtol=1e-6)


# -- MLPs ------------------------------------------------------------------------------------------


def two_layers(activation):
    def formula(p, x):
        return (
            activation(x @ p["c_fc.weight"].T + p["c_fc.bias"]) @ p["c_proj.weight"].T
            + p["c_proj.bias"]
        )

    return formula


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def relu2(x):
    return torch.where(x > 0, x * x, 0.0)


def swiglu(x):
    w = x.shape[-1] // 2
    return x[..., :w] / (1 + torch.exp(-x[..., :w])) * x[..., w:]


@pytest.mark.parametrize("width", [0, 1, 24])
@pytest.mark.parametrize(
    ("name", "activation"), [("gelu", gelu), ("relu2", relu2), ("swiglu", swiglu)]
)
def test_mlp_equals_its_formula(name, activation, width):
    agree(make("mlp", name, width=width), two_layers(activation), inputs())


def test_swiglu_equals_llama():
    """Which half gates is what a converted checkpoint hangs on."""
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    part = make("mlp", "swiglu", width=24)
    config = llama.LlamaConfig(
        hidden_size=C, intermediate_size=24, hidden_act="silu", mlp_bias=True
    )
    theirs = llama.LlamaMLP(config)
    for kind in ("weight", "bias"):
        gate, up = getattr(part.c_fc, kind).chunk(2)
        for layer, value in (
            (theirs.gate_proj, gate),
            (theirs.up_proj, up),
            (theirs.down_proj, None),
        ):
            getattr(layer, kind).data = (
                getattr(part.c_proj, kind) if value is None else value
            ).detach()
    torch.testing.assert_close(part(inputs()), theirs(inputs()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "width", "rows", "columns"),
    [
        ("gelu", 0, 128, 128),
        ("gelu", 24, 24, 24),
        ("relu2", 0, 128, 128),
        ("relu2", 24, 24, 24),
        ("swiglu", 0, 170, 85),  # 8/3 of 32 is 85.33
        ("swiglu", 24, 48, 24),
    ],
)
def test_mlp_width_and_flops_are_as_stated(name, width, rows, columns):
    part = make("mlp", name, width=width)
    assert {n: tuple(p.shape) for n, p in part.named_parameters()} == {
        "c_fc.weight": (rows, C),
        "c_fc.bias": (rows,),
        "c_proj.weight": (C, columns),
        "c_proj.bias": (C,),
    }
    assert part.flops_per_token() == 2 * (rows * C + C * columns)


@pytest.mark.parametrize("n_embd", [32, 64, 100, 384, 768, 1600])
def test_gated_mlp_has_the_baseline_parameter_count(n_embd):
    """Otherwise it would win or lose by size, which Shazeer 2020 rules out (section 3.1)."""
    shape = ModelShape(n_layer=2, n_head=4, n_embd=n_embd, seq_len=24, vocab_size=13)
    with torch.device("meta"):
        counts, flops = {}, {}
        for name in ("gelu", "relu2", "swiglu"):
            cls = registry.load("mlp", name)
            part = cls(shape, cls.Options())
            counts[name], flops[name] = (
                sum(p.numel() for p in part.parameters()),
                part.flops_per_token(),
            )
    assert counts["relu2"] == counts["gelu"] and flops["relu2"] == flops["gelu"]
    assert counts["swiglu"] == pytest.approx(counts["gelu"], rel=0.01)
    assert flops["swiglu"] == pytest.approx(flops["gelu"], rel=0.01)


@pytest.mark.parametrize("name", sorted(registry.files("mlp")))
def test_invalid_width_is_rejected(name):
    cls = registry.load("mlp", name)
    assert cls.check(SHAPE, cls.Options(width=-1)) == {"width": "-1: must be at least 1"}
    assert cls.check(SHAPE, cls.Options(width=1)) == cls.check(SHAPE, cls.Options()) == {}


# -- initial values --------------------------------------------------------------------------------


def begin(norm="layernorm", mlp="gelu", seed=0, theirs=None, **options):
    axes = {
        "norm": VariantChoice(name=norm, label=norm, options={}),
        "mlp": VariantChoice(name=mlp, label=mlp, options=options),
    }
    model = ModelBuilder(SHAPE, axes, []).model().to_empty(device="cpu")
    origin = init_parameters(model, seed, theirs)
    return {name: p.detach() for name, p in model.named_parameters()}, origin


def test_shared_parameters_start_from_the_same_bits():
    """Paired differences are about the variant, not about another draw."""
    baseline = begin()[0]
    rms, squared, gated = begin("rmsnorm")[0], begin(mlp="relu2")[0], begin(mlp="swiglu")[0]
    assert {name.rpartition(".")[2] for name in baseline.keys() - rms.keys()} == {"bias"}
    assert not rms.keys() - baseline.keys()
    assert squared.keys() == gated.keys() == baseline.keys()
    for variant in (rms, squared, gated):
        for name, value in variant.items():
            if variant is not gated or "mlp" not in name:
                assert torch.equal(value, baseline[name]), name


@pytest.mark.parametrize("norm", sorted(registry.files("norm")))
def test_norms_start_with_gain_one_and_bias_zero(norm):
    for name, value in begin(norm)[0].items():
        if "ln_" in name:
            assert torch.equal(value, torch.full((C,), 1.0 if name.endswith("weight") else 0.0)), (
                name
            )


@pytest.mark.parametrize("mlp", sorted(registry.files("mlp")))
def test_mlps_are_initialized_as_in_gpt2(mlp):
    """0.02, residual projections scaled down by depth, no biases."""
    p = begin(mlp=mlp)[0]
    assert p["h.1.mlp.c_fc.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert p["h.1.mlp.c_proj.weight"].std().item() == pytest.approx(0.02 / math.sqrt(4), rel=0.05)
    assert not p["h.1.mlp.c_fc.bias"].any() and not p["h.1.mlp.c_proj.bias"].any()


def test_gate_and_value_are_initialized_independently():
    """As one block, the values of each would depend on the width of both."""
    gate, up = begin(mlp="swiglu")[0]["h.0.mlp.c_fc.weight"].chunk(2)
    assert abs(torch.corrcoef(torch.stack((gate.flatten(), up.flatten())))[0, 1]) < 0.1
    other = begin(mlp="swiglu", seed=1)[0]["h.0.mlp.c_fc.weight"]
    assert not torch.isin(other, torch.cat((gate, up))).any()


def test_norm_loads_the_gain_of_the_other_norm():
    layer, rms = begin(seed=1)[0], begin("rmsnorm", seed=1)[0]
    for gain in (layer["h.0.ln_1.weight"], rms["h.0.ln_1.weight"]):
        nn.init.normal_(gain)
    values, origin = begin("rmsnorm", theirs=layer)
    assert torch.equal(values["h.0.ln_1.weight"], layer["h.0.ln_1.weight"]) and set(
        origin.values()
    ) == {"loaded"}
    values, origin = begin("layernorm", theirs=rms)
    assert torch.equal(values["h.0.ln_1.weight"], rms["h.0.ln_1.weight"])
    fresh = {name for name, how in origin.items() if how == "fresh"}
    assert fresh == {
        f"{at}.bias" for at in ("h.0.ln_1", "h.0.ln_2", "h.1.ln_1", "h.1.ln_2", "ln_f")
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"mlp": "gelu"}, {"mlp": "swiglu"}),
        ({"mlp": "swiglu"}, {"mlp": "gelu"}),
        (
            {"mlp": "gelu", "width": 48},
            {"mlp": "swiglu", "width": 24},
        ),  # of equal widths before the activation
        ({"mlp": "relu2"}, {"mlp": "relu2", "width": 24}),
    ],
)
def test_incompatible_mlp_is_rejected_with_both_shapes(one, other):
    with pytest.raises(
        IncompatibleWeightsError,
        match=r"h.0.mlp.c_(fc|proj).*: \(.*\) there, \(.*\) here, and no conversion",
    ):
        begin(**one, theirs=begin(**other, seed=1)[0])
