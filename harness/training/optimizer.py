"""AdamW, the learning rate schedule, and clipping by the global gradient norm."""

import math
from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from harness.distributed.shards import shard_specs
from harness.results.records import TrainSettings
from variants.base import Parallelism, ParameterGroups

FP32_BYTES = 4
ADAM_STATES = 2  # running means of the gradient and of its square (Kingma & Ba 2015)


def predicted_bytes(n_parameters: int, fractions: Mapping[str, float]) -> dict[str, float]:
    """Return one rank's bytes of parameters, gradients and optimizer state, in fp32.

    `fractions` gives the fraction of each that the rank holds.
    """
    whole = {
        "parameters": FP32_BYTES * n_parameters,
        "gradients": FP32_BYTES * n_parameters,
        "optimizer": FP32_BYTES * ADAM_STATES * n_parameters,
    }
    return {category: size * fractions[category] for category, size in whole.items()}


def adamw(
    model: nn.Module, cfg: TrainSettings, parallelism: Parallelism | None = None
) -> torch.optim.Optimizer:
    """Return fused AdamW (Loshchilov & Hutter 2019).

    Weight decay applies to matrices only, not to biases and gains. A parallelism may shard the
    optimizer's work and state over the ranks.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.dim() >= 2]
    vectors = [parameter for parameter in parameters if parameter.dim() < 2]
    groups: ParameterGroups = []
    if matrices:
        groups.append({"params": matrices, "weight_decay": cfg.weight_decay})
    if vectors:
        groups.append({"params": vectors, "weight_decay": 0.0})

    def make(groups: ParameterGroups) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=cfg.lr, betas=(cfg.beta1, cfg.beta2), fused=True)

    return make(groups) if parallelism is None else parallelism.optimizer(groups, make)


def learning_rate(step: int, cfg: TrainSettings) -> float:
    """Return the rate of `step` (from 0): linear warmup, then cosine decay to `min_lr`."""
    if step < cfg.warmup_steps:
        return cfg.lr * (step + 1) / (cfg.warmup_steps + 1)
    progress = (step - cfg.warmup_steps) / max(1, cfg.steps - cfg.warmup_steps)
    lr = cfg.min_lr + (cfg.lr - cfg.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
    return min(lr, cfg.lr)  # the sum may round up


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, cfg: TrainSettings) -> float:
    """Set the learning rate of `step` for all parameters, and return it."""
    lr = learning_rate(step, cfg)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def clip(model: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients such that their global L2 norm is at most `max_norm`.

    The norm covers all shards; with `max_norm` 0 nothing is scaled.
    Returns the norm before clipping, a scalar on the device (Pascanu et al. 2013, algorithm 1).
    """
    specs = shard_specs(model)
    replicated: list[Tensor] = []
    sharded: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            (sharded if name in specs else replicated).append(parameter.grad)
    norm = _norm(replicated)
    if specs:
        (group,) = {spec.group for spec in specs.values()}
        square = _norm(sharded).square()
        dist.all_reduce(square, group=group)  # replicated gradients count once
        norm = (norm.square() + square).sqrt()
    if max_norm > 0:
        nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, norm)
    return norm


def _norm(grads: Iterable[Tensor]) -> Tensor:
    norm = nn.utils.get_total_norm(grads)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
