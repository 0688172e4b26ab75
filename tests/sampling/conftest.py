"""Checkpoints of small random models."""

import pytest
import torch

from harness.model.builder import ModelBuilder
from harness.model.weights import Weights, save_weights
from harness.results.records import VariantChoice
from variants.base import ModelShape


def std(parameter):
    """Return the scale of a parameter; with that of GPT-2 a model repeats its last token."""
    return 0.1 if parameter.endswith("bias") or parameter == "wte.weight" else 0.5


@pytest.fixture
def save(tmp_path):
    """Return a function that saves a random model, a function of its arguments, in a folder."""

    def save(
        name="model",
        attention="mha",
        positional="learned",
        tokenizer="bytes",
        vocab_size=256,
        seq_len=16,
        dtype=torch.float32,
        **options,
    ):
        shape = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=seq_len, vocab_size=vocab_size)
        uses = {"positional": positional, "attention": attention, "parallelism": "single"}
        axes = {
            axis: VariantChoice(name=use, label=use, options=options if axis == "attention" else {})
            for axis, use in uses.items()
        }
        generator = torch.Generator().manual_seed(0)
        tensors = {
            parameter: (torch.randn(expected.shape, generator=generator) * std(parameter)).to(dtype)
            for parameter, expected in ModelBuilder(shape, axes, []).model().named_parameters()
        }
        save_weights(Weights(shape, axes, tensors, {}, tokenizer=tokenizer), tmp_path / name)
        return tmp_path / name

    return save
