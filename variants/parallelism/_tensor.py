"""Shard a model over processes that compute each part together (Shoeybi et al. 2019, 3).

The input of an attention or MLP is replicated. Each process computes some heads or channels, and
the outputs are summed: one all-reduce at the end of each part in the forward pass, and one at its
beginning in the backward pass. The same holds for the embedding, whose end it has, and for the
output projection, whose beginning it has: each process computes some tokens.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from variants.base import Attention, FeedForward, LanguageModel, Part, Positional, StepShape
from variants.communication import sent_bytes
from variants.dtensor import local
from variants.linear import Linear
from variants.parallelism._collective import Group, RowParallelLinear, sum_gradients
from variants.parallelism._random import RankRandom
from variants.parallelism._vocabulary import REDUCED_PER_TOKEN, shard_vocabulary
from variants.tensor_parallel import ShardSpec, TensorParallelPlan

Blocks = Sequence[tuple[str, int]]  # (name, rows), as in `InitSpec.blocks`


def shard_model(model: nn.Module, rank: int, world_size: int, group: Group = None) -> None:
    """Reduce a model on the meta device to the shard of one rank. Without a group it can't compute.

    Raises:
        ValueError: a part cannot be sharded; the message gives its path and the reason.
    """

    def sum_input_gradients(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (sum_gradients(args[0], group), *args[1:])

    random = RankRandom(rank)
    assert isinstance(model, LanguageModel)
    shard_vocabulary(model, rank, world_size, group)
    for path, part in list(model.named_modules()):
        if isinstance(part, Attention | FeedForward | Positional):
            try:
                plan = _shard_part(part, rank, world_size, group)
            except ValueError as error:
                raise ValueError(f"{type(part).__name__} at {path}: {error}") from error
        if isinstance(part, Attention | FeedForward):
            part.register_forward_pre_hook(sum_input_gradients)
            if model.shape.dropout:
                column_parallel = [part.get_submodule(name) for name in plan.column_parallel]
                row_parallel = [part.get_submodule(name) for name in plan.row_parallel]
                random.surround(part, column_parallel, row_parallel)


def replicated_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters whose gradients must be summed over the processes."""
    parameters = []
    for part in model.modules():
        if isinstance(part, Part):
            parameters += [part.get_parameter(name) for name in part.replicated]
    return parameters


def reduce_gradients(parameters: Iterable[nn.Parameter], group: Group) -> None:
    """Sum the gradients over the group, in one all-reduce."""
    grads = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    if not grads:
        return
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat, group=group)
    for grad, total in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(total.view_as(grad))


def rank_model(model: nn.Module, world_size: int) -> nn.Module:
    """Return a copy of a model on the meta device, reduced to the shard of the first rank."""
    first = copy.deepcopy(model)
    shard_model(first, 0, world_size)
    return first


def rank_fractions(model: nn.Module, world_size: int) -> dict[str, float]:
    """Return the fraction of each parameter, by name, that one of the processes holds."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    held = rank_model(model, world_size).named_parameters()
    return {name: parameter.numel() / sizes[name] for name, parameter in held}


def predicted_bytes_sent(model: nn.Module, step: StepShape, world_size: int) -> float | None:
    """Return the bytes that each rank sends in a step of a sharded model, or None in bf16.

    Each micro-batch sums activations once forward and once backward for each attention and MLP, and
    for embedding and output projection together (Shoeybi et al. 2019, fig. 4), and some numbers for
    each token's loss; after the last, the gradients of replicated parameters are summed. A block
    that is computed again sums the output of its attention again. With dropout, recomputation
    also repeats the last sum of a block or of an attention.
    """
    if step.precision != "fp32":
        return None
    assert isinstance(model, LanguageModel)
    n_attentions = sum(isinstance(module, Attention) for module in model.modules())
    n_mlps = sum(isinstance(module, FeedForward) for module in model.modules())
    n_sums = 2 * (n_attentions + n_mlps + 1)
    if step.recompute == "block":
        n_sums += n_attentions + (n_mlps if model.shape.dropout else 0)
    elif step.recompute == "attention":
        n_sums += n_attentions if model.shape.dropout else 0
    per_token = n_sums * model.shape.n_embd + REDUCED_PER_TOKEN
    n_tokens = step.n_micro_batches * step.micro_batch_size * model.shape.seq_len
    gradients = sum(parameter.numel() for parameter in replicated_parameters(model))
    summed = per_token * n_tokens + gradients
    return sent_bytes("all_reduce", 4 * summed, world_size)


def why_unsupported(make_model: Callable[[], nn.Module], world_size: int) -> str:
    """Return why a model cannot be sharded over `world_size` processes, or ""."""
    try:
        shard_model(make_model(), 0, world_size)
    except ValueError as error:
        return str(error)
    return ""


def _shard_part(part: Part, rank: int, world_size: int, group: Group) -> TensorParallelPlan:
    specs = part.init_specs()
    sizes = {name: parameter.shape for name, parameter in part.named_parameters()}
    plan = part.tensor_parallel_plan(rank, world_size)
    shards = dict(plan.shards)
    for layer in plan.column_parallel:
        weight = f"{layer}.weight"
        blocks = specs[weight].blocks if weight in specs else ()
        ranges = _rank_ranges(layer, blocks or (("", sizes[weight][0]),), rank, world_size)
        for name in _layer_parameters(layer, sizes):
            shards[name] = ShardSpec(sizes[name], 0, ranges)
    for layer in plan.row_parallel:
        size = sizes[f"{layer}.weight"]
        ranges = _rank_ranges(layer, (("", size[1]),), rank, world_size)
        shards[f"{layer}.weight"] = ShardSpec(size, 1, ranges)
    _check_plan_is_complete(part, plan, sizes, shards)
    for layer in plan.column_parallel:
        _replace_layer(part, layer, Linear, shards)
    for layer in plan.row_parallel:
        _replace_layer(part, layer, RowParallelLinear, shards).group = group
    part.shards = {name: replace(shard, group=group) for name, shard in shards.items()}
    part.replicated = [name for name in plan.replicated if name in sizes]
    return plan


def _check_plan_is_complete(
    part: Part,
    plan: TensorParallelPlan,
    sizes: Mapping[str, torch.Size],
    shards: Mapping[str, ShardSpec],
) -> None:
    covered = {*shards, *plan.replicated}
    for layer in plan.row_parallel:
        covered.update(_layer_parameters(layer, sizes))
    missing = sizes.keys() - covered
    if missing and not isinstance(part, Positional):  # others of a positional act on embeddings
        names = ", ".join(sorted(missing))
        raise ValueError(f"`tensor_parallel_plan` does not cover {names}")


LinearT = TypeVar("LinearT", bound=nn.Linear)


def _replace_layer(
    part: Part, name: str, cls: type[LinearT], shards: Mapping[str, ShardSpec]
) -> LinearT:
    """Replace a linear layer by one of the size of this rank's shard, on the meta device."""
    full = part.get_submodule(name)
    assert isinstance(full, nn.Linear)
    shard = shards[f"{name}.weight"]
    sizes = list(full.weight.shape)
    sizes[shard.dim] = sum(stop - start for start, stop in shard.ranges)
    out_features, in_features = sizes
    bias = full.bias is not None
    layer = cls(in_features, out_features, bias, device="meta", dtype=full.weight.dtype)
    part.set_submodule(name, layer)
    return layer


def _layer_parameters(layer: str, sizes: Mapping[str, torch.Size]) -> list[str]:
    """Return the names of the parameters of a linear layer."""
    return [name for name in (f"{layer}.weight", f"{layer}.bias") if name in sizes]


def _rank_ranges(
    layer: str, blocks: Blocks, rank: int, world_size: int
) -> tuple[tuple[int, int], ...]:
    """Return this rank's range of each block."""
    ranges = []
    start = 0
    for name, size in blocks:
        if size % world_size:
            raise ValueError(
                f"{name or layer}: its width of {size} does not divide over {world_size} processes"
            )
        part = size // world_size
        ranges.append((start + rank * part, start + (rank + 1) * part))
        start += size
    return tuple(ranges)
