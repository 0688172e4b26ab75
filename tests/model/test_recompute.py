"""Activations that are computed again are the same, and are not stored."""

import dataclasses

import pytest
import torch

from harness.model.builder import ModelBuilder
from harness.model.initialization import init_parameters
from harness.probes.activations import Activations
from harness.probes.memory import recomputed_bytes
from harness.results.records import VariantChoice
from harness.training.compilation import compile_blocks, compile_report
from variants import registry
from variants.base import ModelShape

SHAPE = ModelShape(n_layer=3, n_head=4, n_embd=32, seq_len=16, vocab_size=11)
OPTIONS = {"gqa": {"n_kv_head": 2}, "sliding_window": {"window": 5}}


def make_model(recompute, dropout=0.0, attention="mha", positional="rope", device="cpu"):
    names = {"attention": attention, "positional": positional}
    axes = {}
    for axis, name in names.items():
        axes[axis] = VariantChoice(name=name, label=name, options=OPTIONS.get(name, {}))
    model = ModelBuilder(dataclasses.replace(SHAPE, dropout=dropout), axes, []).model()
    model.recompute = recompute
    if device != "meta":
        model.to_empty(device=device)
        init_parameters(model, seed=0)
    return model


def tokens(device="cpu"):
    return (torch.arange(2 * SHAPE.seq_len, device=device) ** 2 % 11).view(2, -1)


def trained(model, precision="fp32"):
    """Return the losses, all gradients, the next random number, and the bytes saved."""
    torch.manual_seed(3)
    with Activations(model) as activations:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            losses = model(tokens(), tokens().roll(-1, 1))
        losses.mean().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    return [losses.detach(), *gradients, torch.rand(1)], activations.saved_bytes


@pytest.mark.parametrize("attention", registry.files("attention"))
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_training_is_the_same_to_the_bit(attention, dropout):
    """Also the random numbers after it, and in bf16."""
    for precision in ("fp32", "bf16"):
        plain, plain_bytes = trained(make_model("none", dropout, attention), precision)
        for recompute in ("attention", "block"):
            again, saved_bytes = trained(make_model(recompute, dropout, attention), precision)
            assert all(map(torch.equal, again, plain)), (recompute, precision)
            assert saved_bytes < plain_bytes, recompute


@pytest.mark.parametrize("positional", registry.files("positional"))
def test_every_positional_is_encoded_again(positional):
    plain, _ = trained(make_model("none", positional=positional))
    for recompute in ("attention", "block"):
        again, _ = trained(make_model(recompute, positional=positional))
        assert all(map(torch.equal, again, plain)), recompute


def test_stored_activations_do_not_grow_with_the_layers():
    """Each layer stores its input only; what one layer computes again is stated apart."""
    C_bytes = 4 * tokens().numel() * SHAPE.n_embd
    saved = {}
    for n_layer in (2, 3):
        shape = dataclasses.replace(SHAPE, n_layer=n_layer)
        for recompute in ("none", "block"):
            model = ModelBuilder(shape, {}, []).model()
            model.recompute = recompute
            with Activations(model) as activations:
                model(tokens("meta"), tokens("meta"))
            saved[recompute, n_layer] = activations.saved_bytes
    assert saved["block", 3] - saved["block", 2] == C_bytes
    layer = saved["none", 3] - saved["none", 2]
    model = make_model("block", positional="learned", device="meta")
    assert recomputed_bytes(model, tokens("meta")) == layer - C_bytes
    assert model.recompute == "block"


@pytest.mark.filterwarnings(  # of the compiler itself
    "ignore:The .grad attribute of a Tensor:UserWarning",
    "ignore:.*torch.autograd.function.Function.*should not be instantiated:DeprecationWarning",
)
def test_compiled_blocks_are_recomputed():
    """With the same loss, no graph break, and one graph for all blocks."""
    results = []
    for recompute in ("none", "attention", "block"):
        model = make_model(recompute)
        compile_blocks(list(model.h), "aot_eager")
        losses = model(tokens(), tokens().roll(-1, 1))
        losses.mean().backward()
        results.append([losses.detach(), *(p.grad for p in model.parameters())])
        report = compile_report()
        assert (report.n_graphs, report.n_graph_breaks) == (1, 0)
        torch.testing.assert_close(results[-1], results[0], atol=1e-6, rtol=1e-5)


@pytest.mark.filterwarnings(  # of the compiler itself
    "ignore:The .grad attribute of a Tensor:UserWarning",
    "ignore:.*torch.autograd.function.Function.*should not be instantiated:DeprecationWarning",
    "ignore:.*torch.jit.script_method.*:DeprecationWarning",
)
def test_generated_code_is_recomputed():
    """With the masks of the forward pass: other masks in the backward pass train nothing."""
    results = []
    for recompute in ("none", "block", "attention"):  # the first two share the code
        model = make_model(recompute, dropout=0.3)
        compile_blocks(list(model.h), "inductor")
        torch.manual_seed(3)
        losses = model(tokens(), tokens().roll(-1, 1))
        losses.mean().backward()
        results.append([losses.detach(), *(parameter.grad for parameter in model.parameters())])
        report = compile_report()
        assert (report.n_graphs, report.n_graph_breaks, report.n_recompiles) == (1, 0, 0)
        torch.testing.assert_close(results[-1], results[0], atol=1e-6, rtol=1e-5)


def test_evaluation_is_not_recomputed():
    model = make_model("block").eval()
    with Activations(model) as activations:
        model(tokens(), tokens())
    assert activations.saved_bytes > trained(make_model("block"))[1]
