"""`tie_embeddings`, `bias` and `init_std` reach every variant, and are GPT-2's by default."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from harness.contract.architecture import Architecture
from harness.contract.model import check_model
from harness.errors import UserError
from harness.model.builder import ModelBuilder
from harness.model.generation import decode
from harness.model.initialization import init_parameters
from harness.model.weights import (
    GPT2,
    Weights,
    load_weights,
    save_weights,
)
from harness.published.convert import export_weights, import_weights
from harness.results.records import VariantChoice
from variants import registry
from variants.base import InitSpec, ModelShape
from variants.mlp.gelu import Gelu

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=16, vocab_size=29)
OTHER = replace(SHAPE, tie_embeddings=False, bias=False, init_std=0.1)
SHAPES = [
    replace(SHAPE, tie_embeddings=tied, bias=bias)
    for tied, bias in itertools.product((True, False), repeat=2)
]
REQUIRED = {"gqa": {"n_kv_head": 2}, "sliding_window": {"window": 4}}
EACH = [
    (axis, name)
    for axis in ("positional", "attention", "norm", "mlp")
    for name in registry.files(axis)
]


def choices(axis="mlp", name="gelu"):
    options = REQUIRED.get(name, {})
    return GPT2 | {axis: VariantChoice(name=name, label=name, options=options)}


def make(shape, axes=GPT2, seed=0):
    model = ModelBuilder(shape, axes, []).model().to_empty(device="cpu")
    init_parameters(model, seed)
    return model


def randomized(shape):
    """Return a model in which every parameter matters."""
    model = make(shape)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def tokens(seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(SHAPE.vocab_size, (3, SHAPE.seq_len), generator=generator)


def sizes(shape, axes=GPT2):
    model = ModelBuilder(shape, axes, []).model()
    return {name: parameter.shape for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(("axis", "name"), EACH)
def test_no_variant_keeps_a_bias_or_a_fixed_scale(axis, name):
    """A bias that one variant keeps, or another scale of its start, would be the difference."""
    axes = choices(axis, name)
    assert not [path for path in sizes(OTHER, axes) if path.endswith("bias")]
    model = make(replace(OTHER, n_embd=128, n_head=4, vocab_size=300), axes)
    for path, value in model.named_parameters():
        if value.ndim < 2:
            continue
        expected = 0.1 / math.sqrt(4) if path.endswith("c_proj.weight") else 0.1
        assert value.std().item() == pytest.approx(expected, rel=0.05), path


@pytest.mark.parametrize(("axis", "name"), EACH)
def test_every_variant_keeps_the_contract(axis, name):
    """Causality, KV cache, gradients, FLOPs and memory hold without biases and untied, too."""
    shape = replace(OTHER, seq_len=8)
    architecture = Architecture.of_entry(choices(axis, name), [])
    assert check_model(architecture, shape) == []


@pytest.mark.parametrize("shape", SHAPES)
def test_each_parameter_is_counted_once(shape):
    """GPT-2 124M has 102,144 biases, and 163 million parameters if it is untied."""
    large = replace(shape, n_layer=12, n_head=12, n_embd=768, seq_len=1024, vocab_size=50257)
    expected = 124_439_808
    expected -= 0 if shape.bias else 12 * (2 + 3 + 1 + 4 + 1) * 768 + 768
    expected += 0 if shape.tie_embeddings else 50257 * 768
    assert sum(size.numel() for size in sizes(large).values()) == expected


def test_models_of_equal_seed_differ_in_the_setting_only():
    """Otherwise the comparison of tied and untied would be one of initial values as well."""
    tied = dict(make(SHAPE).named_parameters())
    for shape in SHAPES:
        values = dict(make(shape).named_parameters())
        head = values.pop("lm_head.weight", None)
        for name, value in values.items():
            assert torch.equal(value, tied[name]), name
        assert (head is None) == shape.tie_embeddings
        if head is not None:
            assert not torch.equal(head, values["wte.weight"]), "values of its own"
        left = {name for name in tied if shape.bias or not name.endswith("bias")}
        assert values.keys() == left


def test_without_bias_the_model_is_the_one_with_zero_biases():
    with_bias = randomized(SHAPE)
    for name, parameter in with_bias.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    without = make(replace(SHAPE, bias=False))
    without.load_state_dict(with_bias.state_dict(), strict=False)
    torch.testing.assert_close(without.logits(tokens()), with_bias.logits(tokens()))


def test_the_untied_projection_has_only_its_own_gradient():
    """Only the sum of both gradients is that of the tied matrix."""
    tied = randomized(SHAPE).double()
    untied = make(replace(SHAPE, tie_embeddings=False)).double()
    untied.load_state_dict(tied.state_dict() | {"lm_head.weight": tied.wte.weight})
    gradients = []
    for model in (tied, untied):
        losses = model(tokens(), tokens(3))
        expected = F.cross_entropy(model.logits(tokens()).mT, tokens(3), reduction="none")
        torch.testing.assert_close(losses, expected)
        losses.mean().backward()
        gradients.append(model.wte.weight.grad)
    read = gradients[1]
    written = untied.lm_head.weight.grad
    assert read.abs().max() > 1e-3 and written.abs().max() > 1e-3
    torch.testing.assert_close(read + written, gradients[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_decoding_continues_with_the_models_own_logits(shape):
    model = randomized(shape).eval()
    prompt = tokens()[:, :3]
    new = list(decode(model, prompt, 6, model.caches(3, 9, torch.float32), lambda x: x.argmax(-1)))
    sequence = torch.cat((prompt, torch.tensor(new).T), dim=1)
    expected = model.logits(sequence).argmax(-1)[:, 2:-1]
    assert torch.equal(sequence[:, 3:], expected)


def save(folder, shape):
    model = randomized(shape)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    save_weights(Weights(shape, GPT2, weights, {}), folder)
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_a_checkpoint_states_the_settings(tmp_path, shape):
    """And an export computes the same: biases of zero, where the published layout needs some."""
    model = save(tmp_path / "ours", shape)
    assert load_weights(tmp_path / "ours").shape == shape
    export_weights(tmp_path / "ours", tmp_path / "theirs")
    import_weights(str(tmp_path / "theirs"), tmp_path / "back")
    back = load_weights(tmp_path / "back")
    assert back.shape == replace(shape, bias=True)
    again = make(back.shape)
    again.load_state_dict(back.tensors)
    torch.testing.assert_close(again.logits(tokens()), model.logits(tokens()))


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_computes_the_same(tmp_path, shape):
    transformers = pytest.importorskip("transformers")
    model = save(tmp_path / "ours", shape)
    export_weights(tmp_path / "ours", tmp_path / "theirs")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "theirs").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens()).logits, model.logits(tokens()))


def test_an_untied_config_needs_its_projection(tmp_path):
    """transformers would start it from random values."""
    save(tmp_path / "ours", SHAPE)
    export_weights(tmp_path / "ours", tmp_path / "theirs")
    config = tmp_path / "theirs/config.json"
    text = config.read_text()
    config.write_text(text.replace('"tie_word_embeddings": true', '"tie_word_embeddings": false'))
    assert config.read_text() != text
    with pytest.raises(UserError, match=r"the weights have no lm_head\.weight"):
        import_weights(str(tmp_path / "theirs"), tmp_path / "back")


class OwnBias(Gelu):
    """An MLP of a user, which has a bias and a scale of its own whatever the study says."""

    def __init__(self, shape, options):
        super().__init__(shape, options)
        self.offset = torch.nn.Parameter(torch.empty(shape.n_embd))

    def init_specs(self):
        return {**super().init_specs(), "offset": InitSpec(std=0.3)}

    def forward(self, x_BTC):
        return super().forward(x_BTC) + self.offset


def test_a_variant_that_ignores_the_settings_still_works():
    """`bias` is in the shape that a variant is given; it need not read it."""
    architecture = Architecture.of_entry(GPT2, []).replaced("mlp", OwnBias, OwnBias.Options())
    assert check_model(architecture, replace(OTHER, seq_len=8)) == []
