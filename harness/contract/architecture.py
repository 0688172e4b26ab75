"""The architecture under test: the variants of one entry, built at a shape that a check chooses.

Models are built as training builds them: on the meta device, then with initial values.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.model.builder import VariantLayers, load_variants
from harness.model.gpt import GPT
from harness.model.initialization import UndeclaredError, init_parameters
from harness.results.records import VariantChoice
from variants.base import (
    AXES,
    Attention,
    ModelShape,
    Part,
    Positional,
)
from variants.errors import CODE_ERRORS

VOCABULARY = 31
SHORT = 24  # tokens of the sequences that are tested at every position
LONG = 512  # tokens of the longest sequences, unless an option names a larger number
DEPTH = 4  # layers of the models with short sequences
HEAD_DIMS = (4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Architecture:
    """The class and the options of the variant on each axis of the model."""

    variants: Mapping[str, tuple[type[Part], Any]]

    @classmethod
    def of_entry(
        cls, axes: Mapping[str, VariantChoice], variant_paths: Sequence[str]
    ) -> "Architecture":
        """Return the architecture of an entry; axes that it leaves out get their default."""
        variants = load_variants(axes, variant_paths)
        return cls({a: v for a, v in variants.items() if issubclass(AXES[a].base, Part)})

    def replaced(self, axis: str, variant: type[Part], options: object) -> "Architecture":
        """Return the architecture with another variant on one axis."""
        return Architecture({**self.variants, axis: (variant, options)})

    def problems(self, shape: ModelShape) -> dict[str, str]:
        """Return why the variants do not support a shape, by axis and option."""
        problems = {}
        for axis, (variant, options) in self.variants.items():
            for option, reason in variant.check(shape, options).items():
                problems[f"{axis}.{option}"] = reason
        attention, attention_options = self.variants["attention"]
        positional, positional_options = self.variants["positional"]
        if not problems and issubclass(attention, Attention) and issubclass(positional, Positional):
            width = attention.rotary_dim(shape, attention_options)
            for option, reason in positional.check_rotary(width, positional_options).items():
                problems[f"positional.{option}"] = reason
        return problems

    def model(self, shape: ModelShape) -> GPT:
        """Return the model on the meta device: shapes without memory."""
        with torch.device("meta"):
            return GPT(shape, VariantLayers(shape, self.variants))

    def numbers(self) -> list[int]:
        """Return all integers among the options, such as the width of a window."""
        found: list[int] = []
        remaining: list[Any] = [
            options for _, options in self.variants.values() if is_dataclass(options)
        ]
        remaining = [astuple(options) for options in remaining]
        while remaining:
            value = remaining.pop()
            if isinstance(value, list | tuple):
                remaining.extend(value)
            elif isinstance(value, int) and not isinstance(value, bool):
                found.append(value)
        return found


def short_shape(architecture: Architecture, shape: ModelShape) -> ModelShape:
    """Return a narrow, shallow shape with short sequences, at which the options are valid.

    The number of heads stays, because options count heads. If the options allow no smaller shape,
    it is the study's own with a small vocabulary.
    """
    lengths = (min(SHORT, shape.seq_len), min(LONG, shape.seq_len), shape.seq_len)
    return _smallest(architecture, shape, lengths, _depths(shape, DEPTH))


def deep_shape(architecture: Architecture, shape: ModelShape) -> ModelShape:
    """Return a narrow shape with the study's layers and very short sequences."""
    lengths = (min(SHORT // 3, shape.seq_len), shape.seq_len)
    return _smallest(architecture, shape, lengths, (shape.n_layer,))


def long_shape(architecture: Architecture, shape: ModelShape) -> ModelShape | None:
    """Return a narrow, shallow shape whose sequences exceed every window; None if all are short.

    Its sequences have the study's length, up to LONG tokens or an eighth more than the largest
    number among the options.
    """
    if shape.seq_len <= SHORT:
        return None
    largest = max((n for n in architecture.numbers() if n < shape.seq_len), default=0)
    length = min(shape.seq_len, max(LONG, largest * 9 // 8 + 2))
    return _smallest(architecture, shape, (length, shape.seq_len), _depths(shape, 2))


def _depths(shape: ModelShape, least: int) -> list[int]:
    """Return numbers of layers, the smallest first: options may state one for each layer."""
    return [*range(min(least, shape.n_layer), shape.n_layer), shape.n_layer]


def _smallest(
    architecture: Architecture, shape: ModelShape, lengths: Sequence[int], depths: Sequence[int]
) -> ModelShape:
    """Return the smallest shape that the variants accept and that runs, else one they accept.

    A variant may support few shapes and not say so, for example if it states a width as a number.
    """
    accepted = None
    head_dims = [width for width in HEAD_DIMS if width < shape.head_dim] + [shape.head_dim]
    for length in lengths:
        for depth in depths:
            for head_dim in head_dims:
                smaller = replace(
                    shape,
                    n_layer=depth,
                    n_embd=head_dim * shape.n_head,
                    seq_len=length,
                    vocab_size=VOCABULARY,
                )
                if architecture.problems(smaller):
                    continue
                if _runs(architecture, smaller):
                    return smaller
                accepted = accepted or smaller
    return accepted or replace(shape, vocab_size=VOCABULARY)


def _runs(architecture: Architecture, shape: ModelShape) -> bool:
    """Return whether a model of this shape can be built and called."""
    try:
        model = architecture.model(shape).to_empty(device="cpu")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            outputs(model, tokens_of(1, min(SHORT, shape.seq_len)))
    except CODE_ERRORS:
        return False
    return True


def initialized(architecture: Architecture, shape: ModelShape, seed: int = 0) -> GPT:
    """Return a model with its initial values, as training starts from.

    Raises:
        UndeclaredError: a parameter has no declared initial values.
    """
    model = architecture.model(shape).to_empty(device="cpu")
    init_parameters(model, seed)
    return model


def randomized(architecture: Architecture, shape: ModelShape, seed: int = 0) -> GPT:
    """Return a model with large values: GPT-2's would hide a wrong scale, and zeros a whole path.

    Matrices keep the scale of their input. The values become smaller until the outputs are finite.
    The model has not been called.
    """
    (model,) = twins(architecture, shape, 1, seed)
    return model


def twins(architecture: Architecture, shape: ModelShape, count: int, seed: int = 0) -> list[GPT]:
    """Return models as of `randomized`, built one after the other from the same seed."""
    for scale in (1.0, 0.3, 0.1, 0.0):
        if _is_finite(_noisy(architecture, shape, seed, scale), shape.seq_len):
            break
    return [_noisy(architecture, shape, seed, scale) for _ in range(count)]


def _noisy(architecture: Architecture, shape: ModelShape, seed: int, scale: float) -> GPT:
    model = architecture.model(shape).to_empty(device="cpu")
    try:
        init_parameters(model, seed)
    except UndeclaredError:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
    add_noise(model, scale, seed)
    return model


def _is_finite(model: GPT, length: int) -> bool:
    """Return whether the outputs are finite; True if there are none."""
    try:
        with torch.no_grad():
            return bool(outputs(model, tokens_of(2, length)).isfinite().all())
    except CODE_ERRORS:
        return True


@torch.no_grad()
def add_noise(module: nn.Module, scale: float, seed: int) -> None:
    """Add normal noise to all parameters, of standard deviation 1 / sqrt(inputs) for matrices."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 16
        std = scale / math.sqrt(max(1, fan_in))
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=std)


@torch.no_grad()
def fill_with_noise(module: nn.Module, seed: int) -> None:
    """Set all parameters to normal noise, whatever their values are."""
    for parameter in module.parameters():
        parameter.zero_()
    add_noise(module, 1.0, seed)


def tokens_of(batch: int, length: int, seed: int = 9) -> Tensor:
    """Return random tokens, (batch, length)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (batch, length), generator=generator)


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Seed torch's random numbers on the CPU; restore their state afterwards."""
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, which is faster for small models."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def outputs(model: GPT, tokens_BT: Tensor, training: bool = False) -> Tensor:
    """Return the logits in training or evaluation mode; equal calls draw equal dropout."""
    model.train(training)
    with seeded():
        return model.logits(tokens_BT)
