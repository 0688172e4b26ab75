"""From a run's spec to its parts: the variants that it names, and the model made of them, without memory yet."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.model.gpt import GPT
from harness.results.records import VariantChoice
from variants import registry
from variants.base import AXES, Attention, FeedForward, ModelShape, Norm, Parallelism, Positional


class ModelBuilder:
    """The variants of one entry, by axis, ready to be instantiated."""

    def __init__(
        self, shape: ModelShape, axes: Mapping[str, VariantChoice], variant_paths: Sequence[str]
    ) -> None:
        self.shape, self.names = shape, ", ".join(choice.label for choice in axes.values())
        self._classes, self._options = {}, {}
        for axis, about in AXES.items():
            choice = axes.get(axis) or VariantChoice(
                name=about.default, label=about.default, options={}
            )
            cls = registry.load(axis, choice.name, [Path(path) for path in variant_paths])
            self._classes[axis], self._options[axis] = cls, cls.Options(**choice.options)

    def model(self) -> GPT:
        """Return the model on the meta device: shapes without memory."""
        with torch.device("meta"):
            return GPT(self.shape, self)

    def positional(self) -> Positional:
        """Return a new one of the entry's choice."""
        return self._make("positional")

    def attention(self, layer: int) -> Attention:
        """Return a new one of the entry's choice."""
        return self._make("attention", layer)

    def norm(self) -> Norm:
        """Return a new one of the entry's choice."""
        return self._make("norm")

    def mlp(self) -> FeedForward:
        """Return a new one of the entry's choice."""
        return self._make("mlp")

    def parallelism(self) -> Parallelism:
        """Return how the run is spread over processes."""
        return self._classes["parallelism"](self._options["parallelism"])

    def _make(self, axis: str, *layer: int) -> Any:
        return self._classes[axis](self.shape, self._options[axis], *layer)
