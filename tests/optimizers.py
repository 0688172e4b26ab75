"""Make the optimizer of a model as a run does, for tests."""

import torch
from torch import nn

from harness.model.builder import ModelBuilder
from harness.results.records import TrainSettings, VariantChoice
from harness.training import optimizer as optim
from variants.base import ModelShape, Parallelism

SHAPE = ModelShape(n_layer=1, n_head=1, n_embd=2, seq_len=2, vocab_size=2)  # of no account


def make_optimizer(
    model: nn.Module,
    train: TrainSettings,
    name: str = "adamw",
    options: dict[str, object] | None = None,
    *,
    whole: nn.Module | None = None,
    parallelism: Parallelism | None = None,
) -> torch.optim.Optimizer:
    """Return the optimizer of a model; `whole` is the unsharded model if `model` is sharded."""
    choice = VariantChoice(name=name, label=name, options=options or {})
    builder = ModelBuilder(SHAPE, {"optimizer": choice}, [])
    made, _ = optim.make_optimizer(
        builder.optimizer(train),
        model,
        model if whole is None else whole,
        parallelism or builder.parallelism(),
    )
    return made
