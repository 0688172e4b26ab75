"""Build the model that a run's spec describes, from its variants."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from harness.errors import UserError
from harness.model.gpt import GPT
from harness.results.records import TrainSettings, VariantChoice
from variants import registry
from variants.base import (
    AXES,
    Attention,
    FeedForward,
    ModelShape,
    Norm,
    Optimizer,
    Parallelism,
    Positional,
    Variant,
)
from variants.errors import CODE_ERRORS, describe
from variants.parameters import OptimizerDefaults

VariantT = TypeVar("VariantT", bound=Variant)


Variants = dict[str, tuple[type[Any], Any]]  # class and options of the variant on each axis


def load_variants(axes: Mapping[str, VariantChoice], variant_paths: Sequence[str]) -> Variants:
    """Return the variants of an entry; axes that it leaves out get their default."""
    variants: Variants = {}
    paths = [Path(path) for path in variant_paths]
    for axis, about in AXES.items():
        default = VariantChoice(name=about.default, label=about.default, options={})
        choice = axes.get(axis, default)
        variant = registry.load(axis, choice.name, paths)
        variants[axis] = (variant, variant.Options(**choice.options))
    return variants


class VariantLayers:
    """Makes the modules of a model from its variants at a shape, as a `LayerFactory`."""

    def __init__(self, shape: ModelShape, variants: Mapping[str, tuple[type[Any], Any]]) -> None:
        self.shape = shape
        self.variants = variants

    def positional(self) -> Positional:
        """Return a new positional encoding."""
        return self._make(Positional, "positional")

    def attention(self, layer: int) -> Attention:
        """Return the attention of a layer."""
        return self._make(Attention, "attention", layer)

    def norm(self) -> Norm:
        """Return a new norm."""
        return self._make(Norm, "norm")

    def mlp(self) -> FeedForward:
        """Return a new MLP."""
        return self._make(FeedForward, "mlp")

    def _make(self, base: type[VariantT], axis: str, *layer: int) -> VariantT:
        variant, options = self.variants[axis]
        module = variant(self.shape, options, *layer)
        assert isinstance(module, base)
        return module


class ModelBuilder(VariantLayers):
    """Instantiates the variants of one entry; axes that it leaves out get their default.

    With a `separator`, attention is masked at the boundaries of documents (see `GPT`).
    """

    def __init__(
        self,
        shape: ModelShape,
        axes: Mapping[str, VariantChoice],
        variant_paths: Sequence[str],
        separator: Sequence[int] | None = None,
    ) -> None:
        super().__init__(shape, load_variants(axes, variant_paths))
        self.separator = separator
        self.names = ", ".join(choice.label for choice in axes.values())

    def model(self) -> GPT:
        """Return the model on the meta device: shapes without memory.

        Raises:
            UserError: a variant fails; the message names the line of its code.
        """
        try:
            with torch.device("meta"):
                return GPT(self.shape, self, self.separator)
        except CODE_ERRORS as error:
            raise UserError(self.describe(error, f"the model of {self.names}")) from error

    def describe(self, error: BaseException, action: str) -> str:
        """Return the line of the variants' code that failed, and the exception, in one line."""
        files = [Path(inspect.getfile(cls)) for cls, _ in self.variants.values()]
        return describe(error, action, files)

    def parallelism(self) -> Parallelism:
        """Return the parallelism of the run."""
        variant, options = self.variants["parallelism"]
        parallelism = variant(options)
        assert isinstance(parallelism, Parallelism)
        return parallelism

    def optimizer(self, train: TrainSettings) -> Optimizer:
        """Return the optimizer of the run."""
        variant, options = self.variants["optimizer"]
        defaults = OptimizerDefaults(
            lr=train.lr,
            beta1=train.beta1,
            beta2=train.beta2,
            weight_decay=train.weight_decay,
        )
        optimizer = variant(options, defaults)
        assert isinstance(optimizer, Optimizer)
        return optimizer
