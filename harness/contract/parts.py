"""Checks on one part of a model: what its axis promises (`variants.base`).

Each takes a part, or a function that makes one, and returns its violations.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from harness.contract.architecture import fill_with_noise, seeded
from harness.contract.violation import Violation
from variants.base import Attention, ModelShape, NoOptions, Part, Positional
from variants.errors import text_of

CLOSE = 1e-5  # absolute and relative, fp32
ENCODED = ("embed", "rotate", "rotate")  # the methods whose results `encode` returns
BF16_CLOSE = 0.05  # of the norm of the output


@dataclass(frozen=True)
class PartFactory:
    """Makes a variant at a shape, as the first layer of a model."""

    cls: type[Part]
    options: Any

    def __call__(self, shape: ModelShape) -> Part:
        """Return the variant with uninitialized or default values."""
        layer = (0,) if issubclass(self.cls, Attention) else ()
        return self.cls(shape, self.options, *layer)

    def randomized(self, shape: ModelShape) -> Part:
        """Return the variant with large values."""
        part = self(shape)
        fill_with_noise(part, seed=1)
        return part


def random_input(*size: int, seed: int = 3) -> Tensor:
    """Return standard normal numbers."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def apply(part: Part, x_BTC: Tensor, positions_T: Tensor | None = None) -> Tensor:
    """Return the output of a norm, MLP or attention, the latter without positional encoding."""
    if isinstance(part, Attention):
        positions = torch.arange(x_BTC.shape[1]) if positions_T is None else positions_T
        return part(x_BTC, positions, no_positional())  # type: ignore[no-any-return]
    return part(x_BTC)  # type: ignore[no-any-return]


def no_positional() -> Positional:
    """Return a positional encoding that does nothing."""
    shape = ModelShape(n_layer=1, n_head=1, n_embd=1, seq_len=1, vocab_size=1)
    return Positional(shape, NoOptions())


def is_not_positionwise(part: Part, x_BTC: Tensor) -> list[Violation]:
    """Report a norm or MLP whose output at one position depends on other positions."""
    position = x_BTC.shape[1] // 3
    with torch.no_grad():
        whole = part(x_BTC)
        alone = part(x_BTC[1:2, position : position + 1])
        if whole.shape != x_BTC.shape:
            return [_found("positionwise", f"returns {whole.shape} for {x_BTC.shape}", part)]
        changed = x_BTC.clone()
        changed[:, position] += 1.0
        differs = (part(changed) != whole).any(dim=-1)
    expected = torch.arange(x_BTC.shape[1]) == position
    others = (differs & ~expected).any(dim=0).nonzero()
    if len(others):
        message = f"the output at position {int(others[0])} depends on position {position}"
        return [_found("positionwise", message, part)]
    if not differs[:, position].all():
        return [_found("positionwise", "the output does not depend on the input", part)]
    if not _close(alone, whole[1:2, position : position + 1]):
        return [_found("positionwise", "one position alone has another output", part)]
    return []


def drops_out_wrongly(make: Callable[[ModelShape], Part], shape: ModelShape) -> list[Violation]:
    """Report dropout in evaluation mode, without `dropout`, or not of all outputs in training."""
    plain = make(replace(shape, dropout=0.0))
    dropping = make(replace(shape, dropout=0.5))
    fill_with_noise(plain, seed=1)
    dropping.load_state_dict(plain.state_dict())
    x_BTC = random_input(3, shape.seq_len, shape.n_embd)
    with torch.no_grad(), seeded():
        expected = apply(_mode(plain, False), x_BTC)
        if not torch.equal(apply(_mode(dropping, False), x_BTC), expected):
            return [_found("dropout", "acts in evaluation mode", plain)]
        if not torch.equal(apply(_mode(plain, True), x_BTC), expected):
            return [_found("dropout", "the output in training differs with dropout = 0", plain)]
        zeros = (apply(_mode(dropping, True), x_BTC) == 0).double().mean()
    if not 0.4 < zeros < 0.6:
        message = f"with dropout = 0.5, {zeros:.0%} of the outputs are dropped in training"
        return [_found("dropout", message, plain)]
    return []


def has_wrong_gradients(
    part: Part, shape: ModelShape, positional: Positional | None = None
) -> list[Violation]:
    """Compare all gradients, those of the parameters too, with differences in float64.

    An attention is called with `positional`, or without positional encoding.
    """
    part = copy.deepcopy(part).double()
    T = shape.seq_len
    inputs = [random_input(2, T, shape.n_embd)]
    if isinstance(part, Positional):
        inputs.append(random_input(2, shape.n_head, T, shape.head_dim, seed=4))
        inputs.append(random_input(2, 2, T, shape.head_dim, seed=5))
    names = [name for name, _ in part.named_parameters()]
    values = [x.double() for x in inputs]
    values += [parameter.detach() for parameter in part.parameters()]
    module = _AllHooks(part) if isinstance(part, Positional) else part

    def outputs(*given: Tensor) -> tuple[Tensor, ...]:
        parameters = dict(zip(names, given[len(inputs) :], strict=True))
        if isinstance(part, Positional):
            parameters = {f"positional.{name}": value for name, value in parameters.items()}
        arguments: tuple[Any, ...] = given[: len(inputs)]
        if isinstance(part, Attention):
            arguments = (*arguments, torch.arange(T), positional or no_positional())
        made = torch.func.functional_call(module, parameters, arguments)
        results = made if isinstance(made, tuple) else (made,)
        return tuple(y for y in results if y is not None and y.requires_grad)

    try:
        gradcheck(outputs, [x.requires_grad_() for x in values], fast_mode=True)
    except RuntimeError as error:
        reason = text_of(error).partition("\n")[0]
        message = f"gradients differ from finite differences: {reason}"
        return [_found("differences", message, part)]
    return []


class _AllHooks(nn.Module):
    """Calls a positional in all three places, as a module so that its parameters can be given."""

    def __init__(self, positional: Positional) -> None:
        super().__init__()
        self.positional = positional

    def forward(self, x: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor | None, ...]:
        positions = torch.arange(x.shape[1])
        positional = self.positional
        rotated = positional.rotate(q, k, positions)
        return positional.embed(x, positions), *rotated, positional.bias(positions, positions)


def is_imprecise_in_bf16(part: Part, x_BTC: Tensor) -> list[Violation]:
    """Report outputs under autocast that differ from fp32 by more than bf16 rounding."""
    with torch.no_grad():
        full = apply(part, x_BTC)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = apply(part, x_BTC)
    if (rounded - full).norm() < BF16_CLOSE * full.norm():
        return []
    deviation = float((rounded - full).norm() / full.norm())
    return [_found("bf16", f"the output differs from that in fp32 by {deviation:.0%}", part)]


def depends_on_later_positions(
    attention: Attention, positional: Positional, shape: ModelShape
) -> list[Violation]:
    """Report an attention whose outputs for a prefix change with the rest of the sequence."""
    T = shape.seq_len
    x_BTC = random_input(3, T, shape.n_embd)
    positions = torch.arange(T)
    with torch.no_grad():
        whole = attention(x_BTC, positions, positional)
        for length in (1, 2, T // 3 - 1, 2 * T // 3):
            part = attention(x_BTC[:, :length], positions[:length], positional)
            if not _close(part, whole[:, :length]):
                message = f"the first {length} outputs change with later positions"
                return [_found("prefix", message, attention)]
    return []


def mixes_sequences(
    attention: Attention, positional: Positional, shape: ModelShape
) -> list[Violation]:
    """Report an attention of which one sequence of the batch changes the outputs of another."""
    x_BTC = random_input(3, shape.seq_len, shape.n_embd)
    positions = torch.arange(shape.seq_len)
    changed = x_BTC.clone()
    changed[1] += 1.0
    with torch.no_grad():
        before = attention(x_BTC, positions, positional)
        after = attention(changed, positions, positional)
    if not torch.equal(before[[0, 2]], after[[0, 2]]):
        return [_found("batch", "one sequence changes the outputs of another", attention)]
    if not (before[1] != after[1]).any(dim=-1).all():
        return [_found("batch", "outputs do not depend on the input", attention)]
    return []


def encode(positional: Positional, positions: Tensor, x_BTC: Tensor, n_head: int) -> list[Tensor]:
    """Return the embeddings, queries and keys that a positional makes at `positions`, (B, T, ...).

    There are two heads of keys.
    """
    heads = x_BTC.view(len(x_BTC), -1, n_head, x_BTC.shape[-1] // n_head).transpose(1, 2)
    q, k = positional.rotate(heads, 2 * heads[:, :2], positions)
    return [positional.embed(x_BTC, positions), q.transpose(1, 2), k.transpose(1, 2)]


def depends_on_more_than_positions(positional: Positional, shape: ModelShape) -> list[Violation]:
    """Report a positional whose value at a position depends on the length or on the order."""
    T = shape.seq_len
    positions = torch.arange(T)
    x_BTC = random_input(3, T, shape.n_embd)
    with torch.no_grad():
        whole = encode(positional, positions, x_BTC, shape.n_head)
        bias = positional.bias(positions, positions)
        blocks = (torch.arange(T // 3, 2 * T // 3), torch.tensor([T - 1, 0, T // 2]))
        for index in (*blocks, torch.tensor([5 % T])):
            parts = encode(positional, index, x_BTC[:, index], shape.n_head)
            for name, part, expected in zip(ENCODED, parts, whole, strict=True):
                if not _close(part, expected[:, index]):
                    message = f"`{name}` at some positions differs from the same in a sequence"
                    return [_found("positions", message, positional)]
            if bias is not None:
                part_bias = positional.bias(index, positions[3:9])
                if part_bias is None or not _close(part_bias, bias[..., index, 3:9]):
                    message = "`bias` of some positions differs from the same in a sequence"
                    return [_found("positions", message, positional)]
    return []


def changes_precision(positional: Positional, shape: ModelShape) -> list[Violation]:
    """Report a positional that changes shapes, or bf16 into another type."""
    positional = copy.deepcopy(positional).bfloat16()
    x_BTC = random_input(3, shape.seq_len, shape.n_embd).bfloat16()
    with torch.no_grad():
        made = encode(positional, torch.arange(shape.seq_len), x_BTC, shape.n_head)
    heads = (3, shape.seq_len, shape.n_head, shape.head_dim)
    sizes = (tuple(x_BTC.shape), heads, (*heads[:2], 2, shape.head_dim))
    for name, value, size in zip(ENCODED, made, sizes, strict=True):
        if tuple(value.shape) != size:
            message = f"`{name}` returns {tuple(value.shape)} instead of {size}"
            return [_found("positions", message, positional)]
        if value.dtype != torch.bfloat16:
            message = f"`{name}` returns {value.dtype} for bfloat16"
            return [_found("positions", message, positional)]
    return []


def declares_bias_wrongly(positional: Positional, shape: ModelShape) -> list[Violation]:
    """Report `has_bias` that disagrees with `bias`, and a bias of a wrong shape."""
    T = shape.seq_len
    positions = torch.arange(T)
    with torch.no_grad():
        keys = positions[:5]
        bias = positional.bias(positions, keys)
        if (bias is not None) != positional.has_bias:
            returned = "None" if bias is None else "a tensor"
            message = f"`has_bias` is {positional.has_bias}, but `bias` returns {returned}"
            return [_found("has_bias", message, positional)]
        if bias is None:
            return []
        sizes = ((shape.n_head, T, len(keys)), (1, T, len(keys)))
        if tuple(bias.shape) not in sizes:
            message = f"`bias` returns {tuple(bias.shape)}, not {sizes[0]} or {sizes[1]}"
            return [_found("has_bias", message, positional)]
        n_blocks = min(3, T)
        blocks = positions[: T - T % n_blocks].view(n_blocks, -1)
        of_blocks = positional.bias(blocks, blocks)
        for n, block in enumerate(blocks):
            of_block = positional.bias(block, block)
            if of_blocks is None or of_block is None or not _close(of_blocks[n], of_block):
                message = "`bias` of several blocks differs from that of each block"
                return [_found("has_bias", message, positional)]
    return []


def declares_extrapolation_wrongly(positional: Positional, shape: ModelShape) -> list[Violation]:
    """Report `extrapolates` that disagrees with positions beyond the trained length."""
    T = shape.seq_len
    beyond = torch.arange(T, 2 * T)
    x_BTC = random_input(3, T, shape.n_embd)
    try:
        with torch.no_grad():
            made = encode(positional, beyond, x_BTC, shape.n_head)
    except IndexError as error:
        if not positional.extrapolates:
            return []
        message = f"`extrapolates` is True, but positions from seq_len on raise {text_of(error)}"
        return [_found("extrapolates", message, positional)]
    if not positional.extrapolates:
        message = "`extrapolates` is False, but positions from seq_len on raise no IndexError"
        return [_found("extrapolates", message, positional)]
    if not all(value.isfinite().all() for value in made):
        return [_found("extrapolates", "values beyond seq_len are not finite", positional)]
    return []


def _mode(part: Part, training: bool) -> Part:
    part.train(training)
    return part


def _close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, CLOSE, CLOSE)


def _found(check: str, message: str, part: nn.Module) -> Violation:
    return Violation(check, message, type(part).__name__)
