"""The model is GPT-2: the published formulas, names, sizes and initial values."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.model.builder import ModelBuilder
from harness.model.initialization import init_parameters
from harness.results.records import VariantChoice
from variants import registry
from variants.base import ModelShape

SHAPE = ModelShape(n_layer=3, n_head=4, n_embd=32, seq_len=16, vocab_size=29)
GPT2 = {
    "attn.c_attn": ("weight", "bias"),
    "attn.c_proj": ("weight", "bias"),
    "ln_1": ("weight", "bias"),
    "ln_2": ("weight", "bias"),
    "mlp.c_fc": ("weight", "bias"),
    "mlp.c_proj": ("weight", "bias"),
}


def meta(shape=SHAPE, attention="mha", positional="learned", **options):
    axes = {
        "positional": VariantChoice(name=positional, label=positional, options={}),
        "attention": VariantChoice(name=attention, label=attention, options=options),
        "parallelism": VariantChoice(name="single", label="single", options={}),
    }
    return ModelBuilder(shape, axes, []).model()


def make(shape=SHAPE, **variants):
    model = meta(shape, **variants).to_empty(device="cpu")
    init_parameters(model, seed=0)
    return model


def randomised(shape=SHAPE):
    """Return a model in which every parameter matters, with scores far from uniform."""
    model, generator = make(shape), torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        nn.init.normal_(
            parameter,
            mean=1.0 if "ln_" in name and "weight" in name else 0.0,
            std=0.2,
            generator=generator,
        )
    return model


def tokens(n_batch=2, seed=2, shape=SHAPE):
    return torch.randint(
        shape.vocab_size, (n_batch, shape.seq_len), generator=torch.Generator().manual_seed(seed)
    )


def reference_logits(p, tokens_T, shape, unembedding=None):
    """Return the logits of one sequence in float64 by the formulas of the papers.

    Radford et al. 2018, 2019; `p` maps parameter names to values.
    """

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{name}.weight"]
            + p[f"{name}.bias"]
        )

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def gelu(x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    n, width = len(tokens_T), shape.n_embd // shape.n_head
    x = p["wte.weight"][tokens_T] + p["wpe.weight"][:n]
    for layer in range(shape.n_layer):
        block = f"h.{layer}"
        q, k, v = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn").split(
            shape.n_embd, dim=-1
        )
        heads = []
        for h in range(shape.n_head):
            own = slice(h * width, (h + 1) * width)
            scores = (q[:, own] @ k[:, own].T / math.sqrt(width)).exp().tril()
            heads.append(scores / scores.sum(-1, keepdim=True) @ v[:, own])
        x = x + linear(torch.cat(heads, dim=-1), f"{block}.attn.c_proj")
        inner = gelu(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"))
        x = x + linear(inner, f"{block}.mlp.c_proj")
    return norm(x, "ln_f") @ (p["wte.weight"] if unembedding is None else unembedding).T


def published(model):
    return {
        name.removeprefix("positional."): value.detach().double()
        for name, value in model.named_parameters()
    }


def test_logits_follow_the_formulas_of_the_papers():
    model = randomised()
    expected = torch.stack([reference_logits(published(model), row, SHAPE) for row in tokens()])
    torch.testing.assert_close(model.logits(tokens()).double(), expected, atol=1e-4, rtol=1e-4)
    exact = model.double().logits(tokens())
    torch.testing.assert_close(exact, expected, atol=1e-10, rtol=1e-10)


def test_loss_is_the_negative_log_probability_in_nats():
    model, targets = randomised(), tokens(seed=3)
    losses = model(tokens(), targets)
    assert losses.shape == targets.shape and losses.dtype == torch.float32
    probabilities = torch.stack(
        [reference_logits(published(model), row, SHAPE) for row in tokens()]
    ).softmax(-1)
    expected = -probabilities.gather(-1, targets[..., None])[..., 0].log()
    torch.testing.assert_close(losses.double(), expected, atol=1e-4, rtol=1e-4)


def test_parameters_have_the_published_names():
    """Loading and exporting checkpoints depends on these names."""
    names = {name.removeprefix("positional.") for name, _ in meta().named_parameters()}
    blocks = {
        f"h.{i}.{module}.{kind}"
        for i in range(3)
        for module, kinds in GPT2.items()
        for kind in kinds
    }
    assert names == blocks | {"wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias"}


def test_gpt2_small_has_its_124_million_parameters():
    shape = ModelShape(n_layer=12, n_head=12, n_embd=768, seq_len=1024, vocab_size=50257)
    model = meta(shape)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == 124_439_808


def test_the_tied_embedding_has_both_parts_of_its_gradient():
    """Untied, the 124M model would have a third more parameters."""
    model, targets = randomised().double(), tokens(seed=3)
    logits = model.logits(tokens())
    (tied,) = torch.autograd.grad(
        F.cross_entropy(logits.flatten(0, 1), targets.flatten()), [model.wte.weight]
    )

    p = published(model)
    read, written = (p["wte.weight"].clone().requires_grad_() for _ in range(2))
    rows = [reference_logits(p | {"wte.weight": read}, row, SHAPE, written) for row in tokens()]
    parts = torch.autograd.grad(
        F.cross_entropy(torch.cat(rows), targets.flatten()), [read, written]
    )
    assert all(part.abs().max() > 1e-3 for part in parts)
    torch.testing.assert_close(tied, sum(parts), atol=1e-10, rtol=1e-8)


def test_initial_values_are_those_of_gpt2():
    """Radford et al. 2019, 2.3: std 0.02, 0.02 / sqrt(N) for projections of N residual layers."""
    shape = ModelShape(n_layer=8, n_head=4, n_embd=128, seq_len=128, vocab_size=256)
    for name, value in make(shape).named_parameters():
        if name.endswith("bias"):
            assert not value.any(), name
        elif "ln_" in name:
            assert (value == 1).all(), name
        else:
            expected = 0.02 / math.sqrt(16) if name.endswith("c_proj.weight") else 0.02
            assert value.std().item() == pytest.approx(expected, rel=0.03), name
            assert abs(value.mean().item()) < 5 * expected / value.numel() ** 0.5, name


def test_an_untrained_model_guesses():
    """Its loss is ln V; another loss at step 0 means a leak or a wrong scale."""
    assert make().eval()(tokens(), tokens(seed=3)).mean().item() == pytest.approx(
        math.log(29), abs=0.05
    )


def test_dropout_acts_in_training_only_and_in_all_places():
    dropping, plain = (make(replace(SHAPE, dropout=rate)) for rate in (0.5, 0.0))
    assert torch.equal(dropping.eval().logits(tokens()), plain.eval().logits(tokens()))
    dropping.train()
    assert not torch.equal(dropping.logits(tokens()), dropping.logits(tokens()))
    after = {"embedding": dropping.h[0].ln_1, "attention": dropping.h[0].ln_2}
    seen = {}
    for place, module in after.items():
        module.register_forward_pre_hook(lambda _, args, place=place: seen.update({place: args[0]}))
    mlp = []
    dropping.h[0].mlp.register_forward_hook(lambda _, args, y: mlp.append(y))
    dropping.logits(tokens())
    for y in (seen["embedding"], seen["attention"] - seen["embedding"], mlp[0]):
        assert 0.4 < (y == 0).double().mean() < 0.6


@pytest.mark.parametrize(
    ("attention", "options", "c_attn", "visible"),
    [
        ("mha", {}, 96, 8.5),
        ("gqa", {"n_kv_head": 2}, 64, 8.5),
        ("sliding_window", {"window": 4}, 96, (1 + 2 + 3 + 13 * 4) / 16),
    ],
)
def test_training_flops_per_token_by_hand(attention, options, c_attn, visible):
    """2 FLOPs per weight, 4 C per visible key, times three for forward and backward."""
    layer = 2 * (c_attn * 32 + 32 * 32 + 2 * 4 * 32 * 32) + 4 * 32 * visible
    expected = 3 * (3 * layer + 2 * 29 * 32)
    assert meta(attention=attention, **options).flops_per_token() == pytest.approx(
        expected, rel=1e-12
    )


def test_a_model_is_built_on_the_meta_device_from_its_variants():
    model = meta(attention="gqa", n_kv_head=2, positional="rope")
    assert isinstance(model.positional, registry.load("positional", "rope"))
    assert [type(block.attn).__name__ for block in model.h] == ["GroupedQuery"] * 3
    assert all(parameter.is_meta for parameter in model.parameters())
