"""The layers share rotary tables, which are never those of another forward pass."""

import pytest
import torch

from harness.model.builder import ModelBuilder
from harness.model.initialization import init_parameters
from harness.results.records import VariantChoice
from harness.training.compilation import compile_blocks, compile_report
from variants import registry
from variants.base import ModelShape
from variants.positional.rope import Rope

SHAPE = ModelShape(n_layer=3, n_head=4, n_embd=32, seq_len=16, vocab_size=11)
OPTIONS = {"gqa": {"n_kv_head": 2}, "sliding_window": {"window": 5}}
TOKENS = (torch.arange(2 * SHAPE.seq_len) ** 2 % SHAPE.vocab_size).view(2, -1)


def make_model(attention="mha", separator=None, **options):
    options = OPTIONS.get(attention, {}) | options
    axes = {
        "attention": VariantChoice(name=attention, label=attention, options=options),
        "positional": VariantChoice(name="rope", label="rope", options={}),
    }
    model = ModelBuilder(SHAPE, axes, [], separator).model().to_empty(device="cpu")
    init_parameters(model, seed=0)
    return model


def train(model, precision="fp32", length=SHAPE.seq_len):
    """Return the losses and all gradients."""
    tokens_BT = TOKENS[:, :length]
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        losses_BT = model.train()(tokens_BT, tokens_BT.roll(-1, 1))
    losses_BT.mean().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    return [losses_BT.detach(), *gradients]


@torch.no_grad()
def decode(model, n=4):
    """Return the logits after a prompt and after each further token."""
    caches = model.eval().caches(2, SHAPE.seq_len, torch.float32)
    prompt_BT = TOKENS[:, :5]
    steps = [prompt_BT, *TOKENS[:, 5 : 5 + n].split(1, dim=1)]
    return [model.next_logits(tokens_BT, caches) for tokens_BT in steps]


@pytest.fixture
def computed(monkeypatch):
    """List the width and type of each table that is computed."""
    calls = []
    tables = Rope.tables

    def recorded(self, positions_T, width, dtype):
        calls.append((width, dtype))
        return tables(self, positions_T, width, dtype)

    monkeypatch.setattr(Rope, "tables", recorded)
    return calls


@pytest.mark.parametrize("attention", registry.files("attention"))
def test_tables_are_computed_once_in_each_forward(computed, attention):
    """Whatever is computed again in the backward pass; also with documents, and in decoding."""
    for separator in (None, (3,)):
        model = make_model(attention, separator)
        for recompute in ("none", "attention", "block"):
            model.recompute = recompute
            for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
                train(model, precision)
                assert computed == [(model.rotated_width, dtype)], (recompute, separator)
                computed.clear()
    assert len(computed) == 0
    steps = decode(model)
    assert len(computed) == len(steps)


def test_tables_are_computed_once_with_normalized_heads(computed):
    train(make_model(qk_norm=True), "bf16")
    assert computed == [(SHAPE.head_dim, torch.bfloat16)]


@pytest.mark.filterwarnings(  # of the compiler itself
    "ignore:The .grad attribute of a Tensor:UserWarning",
    "ignore:.*torch.autograd.function.Function.*should not be instantiated:DeprecationWarning",
)
def test_compiled_layers_share_tables_and_one_graph(computed):
    """A table within a graph would be computed, and kept for its backward pass, by each layer."""
    model = make_model()
    compile_blocks(list(model.h), "aot_eager")
    for _ in range(2):
        train(model)
        with torch.compiler.set_stance("force_eager"):
            decode(model, n=1)
    assert len(computed) == 2 * (1 + 2)
    report = compile_report()
    assert (report.n_graphs, report.n_graph_breaks) == (1, 0)
    positions_T = torch.arange(SHAPE.seq_len) + 7  # no forward pass has prepared these
    x_BTC = torch.randn(2, SHAPE.seq_len, SHAPE.n_embd)
    uncompiled = make_model()
    expected = uncompiled.h[0](x_BTC, positions_T, uncompiled.positional)
    torch.testing.assert_close(model.h[0](x_BTC, positions_T, model.positional), expected)


@pytest.mark.parametrize("attention", registry.files("attention"))
def test_no_forward_uses_the_tables_of_an_earlier_one(attention):
    """Of another length, type or position: each result is that of a new model, to the bit."""
    passes = (
        train,
        lambda model: train(model, length=9),
        lambda model: train(model, "bf16"),
        decode,
        lambda model: train(model.double()),
        lambda model: train(model.float()),
    )
    model = make_model(attention)
    for run in passes:
        expected = run(make_model(attention))
        assert all(map(torch.equal, run(model), expected))


def test_a_backward_after_another_forward_is_the_same():
    """The pass in between prepares other tables before the first one is computed again."""
    for recompute in ("attention", "block"):
        model = make_model()
        model.recompute = recompute
        expected = train(model)
        losses_BT = model(TOKENS, TOKENS.roll(-1, 1))
        decode(model)
        losses_BT.mean().backward()
        assert all(
            torch.equal(parameter.grad, gradient)
            for parameter, gradient in zip(model.parameters(), expected[1:], strict=True)
        )


class HalfSpeed(Rope):
    """A user's variant that rotates by other positions than the model's."""

    def rotate(self, q_BHTD, k_BGTD, positions_T):
        return super().rotate(q_BHTD, k_BGTD, positions_T / 2)


@pytest.mark.parametrize("width", [SHAPE.head_dim, SHAPE.head_dim // 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prepared_tables_serve_only_what_they_are_of(width, dtype):
    """Other positions, widths and types get tables of their own."""
    x = torch.randn(2, 4, SHAPE.seq_len, width).to(dtype)
    positions_T = torch.arange(SHAPE.seq_len)
    for cls in (Rope, HalfSpeed):
        positional = cls(SHAPE, cls.Options())
        expected = positional.rotate(x, x, positions_T)
        shifted = positional.rotate(x, x, positions_T + 1)
        positional.prepare(positions_T, SHAPE.head_dim, torch.float32)
        assert all(map(torch.equal, positional.rotate(x, x, positions_T), expected))
        assert all(map(torch.equal, positional.rotate(x, x, positions_T + 1), shifted))
