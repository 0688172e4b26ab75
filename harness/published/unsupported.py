"""Which variants and options of a model a published layout does not express."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from pathlib import Path

from harness.model.weights import Weights
from variants import registry

# Axis: variant: its options that the layout expresses; others must have their default.
Expressed = Mapping[str, Mapping[str, Collection[str]]]


def unsupported_variants(weights: Weights, expressed: Expressed, model: str) -> Iterator[str]:
    """Yield the variants and options by which weights compute something else than `model`."""
    paths = [Path(path) for path in weights.variant_paths]
    for axis, variants in expressed.items():
        choice = weights.axes[axis]
        if choice.name not in variants:
            yield f"{axis} = {choice.name}: {model} has {' or '.join(variants)}"
            continue
        if registry.files(axis, paths)[choice.name] != registry.files(axis)[choice.name]:
            yield f"{axis} = {choice.name}, a variant of your own with this name"
        for field in fields(registry.load(axis, choice.name, paths).Options):
            value = choice.options.get(field.name, field.default)
            if value != field.default and field.name not in variants[choice.name]:
                yield f"{axis} = {choice.name} with {field.name} = {value}: {model} has none"
