"""Divide the model's parts over processes that compute them together (Shoeybi et al. 2019, section 3).

What enters an attention or an MLP is whole on every process; each computes some heads, or channels, and their results
are added up. So a pass takes one sum at the end of each part, and one at its beginning on the way back.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from variants.base import Attention, FeedForward, InitSpec, ModelShape, Part, Positional, StepShape
from variants.communication import sent_bytes
from variants.linear import Linear
from variants.parallelism._collective import ByInput, Enter
from variants.tensor_parallel import ShardSpec


def divide(model: nn.Module, rank: int, n: int, group: Any = None) -> None:
    """Make a model on the meta device into what one of `n` processes holds of it; without a group it cannot compute.

    Raises:
        ValueError: a part cannot be divided so; the message says which and why.
    """
    for path, part in list(model.named_modules()):
        if isinstance(part, Attention | FeedForward | Positional):
            _divide(path, part, rank, n, group)
        if isinstance(part, Attention | FeedForward):
            part.register_forward_pre_hook(
                lambda _, given: (Enter.apply(given[0], group), *given[1:])
            )


def shared(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of which each process knows a part of the gradient."""
    parts = [module for module in model.modules() if isinstance(module, Part)]
    return [part.get_parameter(name) for part in parts for name in part.replicated]


def add_up(parameters: Iterable[nn.Parameter], group: Any) -> None:
    """Add up the gradients over the group, all in one message."""
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    grads = [grad.to_local() if isinstance(grad, DTensor) else grad for grad in found]
    if not grads:
        return
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat, group=group)
    for grad, total in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(total.view_as(grad))


def divided(model: nn.Module, n: int) -> nn.Module:
    """Return what the first of `n` processes would hold of a model on the meta device, which stays as it is."""
    first = copy.deepcopy(model)
    divide(first, 0, n)
    return first


def predicted_bytes_sent(model: nn.Module, step: StepShape, n: int) -> float | None:
    """Return the bytes that each of `n` processes sends in a step of a model that was divided.

    In each micro-batch one sum of activations for each attention and each MLP, and one on the way back (Shoeybi et al.
    2019, fig. 4), and in the end the gradients of what all share. In bf16 not all sums are; there is no prediction.
    """
    if step.precision != "fp32":
        return None
    shape = model.shape
    assert isinstance(shape, ModelShape)
    n_parts = sum(isinstance(module, Attention | FeedForward) for module in model.modules())
    activations = step.micro_batch_size * shape.seq_len * shape.n_embd
    sums = 2 * n_parts * step.n_micro_batches * activations + sum(
        parameter.numel() for parameter in shared(model)
    )
    return sent_bytes("all_reduce", 4 * sums, n)


def why_unsupported(make: Callable[[], nn.Module], n: int) -> str:
    """Return why a model cannot be divided over `n` processes, or nothing."""
    try:
        divide(make(), 0, n)
    except ValueError as error:
        return str(error)
    return ""


def no_dropout(shape: ModelShape, name: str) -> dict[str, str]:
    """Return that there is dropout, where there is: heads on different processes would drop the same places."""
    told = f"dropout = {shape.dropout:g}: {name}'s processes would drop the same places of different heads"
    return {"": told} if shape.dropout else {}


def _divide(path: str, part: Part, rank: int, n: int, group: Any) -> None:
    rows: Mapping[str, InitSpec] = part.init_specs()
    sizes = {name: parameter.shape for name, parameter in part.named_parameters()}
    try:
        division = part.tensor_parallel_plan(rank, n)
        pieces = dict(division.shards)
        for name in division.column_parallel:
            declared = rows.get(f"{name}.weight")
            blocks = (
                declared.blocks
                if declared and declared.blocks
                else (("", sizes[f"{name}.weight"][0]),)
            )
            ranges = _ranges(name, blocks, rank, n)
            pieces |= {full: ShardSpec(sizes[full], 0, ranges) for full in _of(name, sizes)}
        for name in division.row_parallel:
            (width,) = sizes[f"{name}.weight"][1:]
            pieces[f"{name}.weight"] = ShardSpec(
                sizes[f"{name}.weight"], 1, _ranges(name, (("", width),), rank, n)
            )
        told = {
            *pieces,
            *division.replicated,
            *(full for name in division.row_parallel for full in _of(name, sizes)),
        }
        if (unknown := sizes.keys() - told) and not isinstance(
            part, Positional
        ):  # its others act on embeddings
            raise ValueError(
                f"`tensor_parallel_plan` does not say what becomes of {', '.join(sorted(unknown))}"
            )
    except ValueError as error:
        raise ValueError(f"{type(part).__name__} at {path}: {error}") from error
    for name in (*division.column_parallel, *division.row_parallel):
        old = part.get_submodule(name)
        assert isinstance(old, nn.Linear)
        out_features, in_features = (
            _held(pieces.get(f"{name}.weight"), dim, size)
            for dim, size in enumerate(old.weight.shape)
        )
        made = Linear if name in division.column_parallel else ByInput
        new = made(
            in_features,
            out_features,
            bias=old.bias is not None,
            device="meta",
            dtype=old.weight.dtype,
        )
        if isinstance(new, ByInput):
            new.group = group
        part.set_submodule(name, new)
    part.shards = {
        name: ShardSpec(piece.size, piece.dim, piece.ranges, group)
        for name, piece in pieces.items()
    }
    part.replicated = [name for name in division.replicated if name in sizes]


def _of(layer: str, sizes: Mapping[str, torch.Size]) -> list[str]:
    """Return the names of a linear layer's parameters."""
    return [name for name in (f"{layer}.weight", f"{layer}.bias") if name in sizes]


def _ranges(
    layer: str, blocks: Iterable[tuple[str, int]], rank: int, n: int
) -> tuple[tuple[int, int], ...]:
    """Return this process's share of each block."""
    found, start = [], 0
    for name, size in blocks:
        if size % n:
            raise ValueError(
                f"{name or layer}: its width of {size} does not divide over {n} processes"
            )
        found.append((start + rank * size // n, start + (rank + 1) * size // n))
        start += size
    return tuple(found)


def _held(piece: ShardSpec | None, dim: int, size: int) -> int:
    """Return how much of a dimension is held."""
    return (
        sum(stop - start for start, stop in piece.ranges)
        if piece is not None and piece.dim == dim
        else size
    )
