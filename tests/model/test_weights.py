"""Checkpoint folders describe their model completely, also those of schema version 1."""

import json

import pytest
import torch

from harness.errors import UserError
from harness.model.builder import ModelBuilder
from harness.model.weights import GPT2, Weights, load_weights, save_weights
from harness.results.records import VariantChoice
from variants.base import ModelShape


@pytest.fixture
def saved(tmp_path):
    """Weights with an attention that has options, and the folder that they are saved in."""
    shape = ModelShape(n_layer=1, n_head=4, n_embd=16, seq_len=8, vocab_size=32)
    options = {"n_kv_head": 2, "kv_pooling": "first"}
    axes = GPT2 | {"attention": VariantChoice(name="gqa", label="gqa2", options=options)}
    parameters = ModelBuilder(shape, axes, []).model().named_parameters()
    tensors = {name: torch.randn(parameter.shape) for name, parameter in parameters}
    origin = dict.fromkeys(tensors, "loaded")
    weights = Weights(shape, axes, tensors, origin, [str(tmp_path)], "gpt2")
    save_weights(weights, tmp_path / "model")
    return weights, tmp_path / "model"


def rewrite(folder, change):
    path = folder / "checkpoint.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def assert_same(loaded, weights):
    assert loaded.sha256 == weights.sha256
    assert (loaded.shape, loaded.axes) == (weights.shape, weights.axes)
    assert (loaded.origin, loaded.tokenizer) == (weights.origin, weights.tokenizer)
    assert loaded.variant_paths == weights.variant_paths


def test_a_checkpoint_is_read_as_it_was_written(saved):
    weights, folder = saved
    assert_same(load_weights(folder), weights)


def test_a_checkpoint_of_version_1_loads(saved):
    def to_version_1(content):
        content["schema_version"] = 1
        for choice in content["axes"].values():
            choice["use"] = choice.pop("name")
        options = content["axes"]["attention"]["options"]
        options["kv"] = options.pop("kv_pooling")

    weights, folder = saved
    rewrite(folder, to_version_1)
    assert_same(load_weights(folder), weights)


@pytest.mark.parametrize(
    ("origin", "data_steps"), [("trained by learned-mha-s0-1, 40 steps", 40), ("loaded", 0)]
)
def test_an_older_checkpoint_states_its_steps(saved, origin, data_steps):
    """A run that starts from it would see its batches again."""

    def to_version_2(content):
        content["schema_version"] = 2
        del content["data_steps"]
        content["origin"] = dict.fromkeys(content["origin"], origin)

    _, folder = saved
    rewrite(folder, to_version_2)
    assert load_weights(folder).data_steps == data_steps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("origin"), "origin: Field required"),
        (lambda content: content["shape"].update(n_head="2"), "shape.n_head: Input should be"),
        (lambda content: content.update(schema_version=9), "schema_version 9"),
    ],
)
def test_an_invalid_description_is_named_with_its_field(saved, change, message):
    _, folder = saved
    rewrite(folder, change)
    with pytest.raises(UserError, match=rf"checkpoint\.json: invalid or missing field: {message}"):
        load_weights(folder)
