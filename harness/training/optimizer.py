"""The optimizer of a run, the learning rate schedule, and clipping by the global gradient norm."""

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from harness.distributed.shards import shard_specs
from harness.model.parameters import parameter_infos
from harness.results.records import TrainSettings
from variants.base import Optimizer, Parallelism
from variants.dtensor import local
from variants.parameters import TrainedParameter
from variants.tensor_parallel import ShardSpec

ROW = 1024  # gradient values whose squares are summed in fp32
PEAK = "initial_lr"  # key of a parameter group: its peak rate, as PyTorch's schedulers name it


def make_optimizer(
    optimizer: Optimizer, model: nn.Module, whole: nn.Module, parallelism: Parallelism
) -> tuple[torch.optim.Optimizer, float]:
    """Return the torch optimizer of a wrapped model, and the bytes that it sends in a step.

    `whole` is the unsharded model. A parallelism may shard the optimizer's work and state over the
    ranks. The present rate of each parameter group becomes its peak rate.
    """
    bytes_sent = 0.0

    def make(parameters: Sequence[TrainedParameter]) -> torch.optim.Optimizer:
        nonlocal bytes_sent
        bytes_sent = optimizer.predicted_bytes_sent(parameters)
        return optimizer.make(parameters)

    made = parallelism.optimizer(_trained_parameters(model, whole), make)
    for group in made.param_groups:
        group[PEAK] = group["lr"]
    return made, bytes_sent


def _trained_parameters(model: nn.Module, whole: nn.Module) -> list[TrainedParameter]:
    """Return the parameters of a model that are trained, as this rank holds them."""
    infos = parameter_infos(whole)
    specs = shard_specs(model)
    trained = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            trained.append(TrainedParameter(infos[name], parameter, specs.get(name)))
    return trained


def learning_rate(step: int, cfg: TrainSettings, peak: float | None = None) -> float:
    """Return the rate of `step` (from 0): linear warm-up to the peak, then `cfg.schedule`.

    `cosine` (Loshchilov & Hutter 2017) and `linear` decay from the warm-up's end to the end of the
    run, `wsd` decays linearly in the last `decay_fraction` of the steps (Hu et al. 2024, 4.2;
    Hägele et al. 2024), `constant` does not decay. The decay ends at `min_lr`. `peak` is that of a
    parameter group, None for `cfg.lr`; `min_lr` is relative to it as it is to `cfg.lr`.
    """
    if peak is None:
        peak = cfg.lr
    if step < cfg.warmup_steps:
        return peak * (step + 1) / (cfg.warmup_steps + 1)
    lowest = cfg.min_lr * (peak / cfg.lr)
    rate = lowest + (peak - lowest) * _decay(step, cfg)
    return min(rate, peak)  # the sum may round up


def _decay(step: int, cfg: TrainSettings) -> float:
    """Return the height of the rate between `min_lr` (0) and the peak (1), after the warm-up."""
    if cfg.schedule == "constant":
        return 1.0
    start = cfg.warmup_steps
    if cfg.schedule == "wsd":
        start = max(start, cfg.steps - decay_steps(cfg))
    progress = max(0, step - start) / max(1, cfg.steps - start)
    if cfg.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress


def decay_steps(cfg: TrainSettings) -> int:
    """Return the number of steps in which `wsd` decays."""
    return max(1, round(cfg.decay_fraction * cfg.steps))


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, cfg: TrainSettings) -> float:
    """Set the learning rate of `step` for all parameters, and return that of the first group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, cfg, group[PEAK])
    return float(optimizer.param_groups[0]["lr"])


def clip(model: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients such that their global L2 norm is at most `max_norm`.

    With `max_norm` 0 nothing is scaled. Returns the norm before clipping, as `gradient_norm`
    (Pascanu et al. 2013, algorithm 1).
    """
    norm = gradient_norm(model)
    if max_norm > 0:
        nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, norm.float())
    return norm


def gradient_norm(model: nn.Module) -> Tensor:
    """Return the L2 norm of all gradients of all ranks, a float64 scalar on their device.

    Squares are added up in float64, so that the norm does not depend on how the gradients are
    sharded.
    """
    specs = shard_specs(model)
    grads: dict[tuple[dist.ProcessGroup, ...], list[Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            grads[_shard_groups(parameter.grad, specs.get(name))].append(local(parameter.grad))
    total: Tensor | None = None
    for groups, shards in grads.items():
        square = _norm(shards).square()
        for group in groups:
            dist.all_reduce(square, group=group)
        total = square if total is None else total + square
    return torch.zeros((), dtype=torch.float64) if total is None else total.sqrt()


def _shard_groups(grad: Tensor, spec: ShardSpec | None) -> tuple[dist.ProcessGroup, ...]:
    """Return the groups over which a gradient is sharded; replicated ones count once."""
    groups = []
    if isinstance(grad, DTensor):
        for dim, placement in enumerate(grad.placements):
            if placement.is_shard():
                groups.append(grad.device_mesh.get_group(dim))
    if spec is not None:
        assert spec.group is not None
        groups.append(spec.group)
    return tuple(groups)


def _norm(grads: Sequence[Tensor]) -> Tensor:
    """Return the norm of tensors on one device in float64, accurate to about 1e-7.

    PyTorch sums the squares of a tensor in a tree on CUDA, but one after the other on a CPU, where
    the relative error of 38 million values is 3e-3 in fp32. There only `ROW` squares are summed
    in fp32, which takes no longer; a sum in float64 would convert each tensor first.
    """
    if grads[0].device.type != "cpu":
        return nn.utils.get_total_norm(grads).double()
    norms = []
    for grad in grads:
        values = grad.flatten()
        n = values.numel() // ROW * ROW
        norms.append(torch.linalg.vector_norm(values[:n].view(-1, ROW), dim=1))
        norms.append(torch.linalg.vector_norm(values[n:])[None])
    norm: Tensor = torch.linalg.vector_norm(torch.cat(norms), dtype=torch.float64)
    return norm
