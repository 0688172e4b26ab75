"""AdamW, its learning rate, and clipping by the global gradient norm."""

import math
from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from harness.distributed.shards import pieces
from harness.results.records import TrainSettings
from variants.base import Parallelism, ParameterGroups

ADAM_STATES = 2  # running means of the gradient and of its square (Kingma & Ba 2015)


def predicted_bytes(n_parameters: int, shares: Mapping[str, float]) -> dict[str, float]:
    """Return what one rank holds of parameters, gradients and optimizer state, in fp32, by its share of each."""
    whole = {
        "parameters": 4 * n_parameters,
        "gradients": 4 * n_parameters,
        "optimizer": 4 * ADAM_STATES * n_parameters,
    }
    return {category: size * shares[category] for category, size in whole.items()}


def adamw(
    model: nn.Module, cfg: TrainSettings, parallelism: Parallelism | None = None
) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019), fused; only matrices decay, not biases, gains and other vectors.

    A parallelism may spread its work and its state over the ranks.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: ParameterGroups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": cfg.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]

    def make(groups: ParameterGroups) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=cfg.lr, betas=(cfg.beta1, cfg.beta2), fused=True)

    return parallelism.optimizer(groups, make) if parallelism is not None else make(groups)


def learning_rate(step: int, cfg: TrainSettings) -> float:
    """Return the rate of `step` (from 0): a linear rise over `warmup_steps`, then half a cosine down to `min_lr`."""
    if step < cfg.warmup_steps:
        return cfg.lr * (step + 1) / (cfg.warmup_steps + 1)
    done = (step - cfg.warmup_steps) / max(1, cfg.steps - cfg.warmup_steps)
    return cfg.min_lr + (cfg.lr - cfg.min_lr) * 0.5 * (1 + math.cos(math.pi * done))


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, cfg: TrainSettings) -> float:
    """Give all parameters the rate of `step`, and return it."""
    lr = learning_rate(step, cfg)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def clip(model: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients such that their global L2 norm, over all shards, is at most `max_norm`; 0 leaves them.

    Returns the norm before clipping, a scalar on the device (Pascanu et al. 2013, algorithm 1).
    """
    of, grads = (
        pieces(model),
        {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
    )
    norm = _norm(grad for name, grad in grads.items() if name not in of)
    if of:
        (group,) = {piece.group for piece in of.values()}
        square = _norm(grad for name, grad in grads.items() if name in of).square()
        dist.all_reduce(square, group=group)  # what the group holds whole counts once
        norm = (norm.square() + square).sqrt()
    nn.utils.clip_grads_with_norm_(model.parameters(), max_norm if max_norm > 0 else math.inf, norm)
    return norm


def _norm(grads: Iterable[Tensor]) -> Tensor:
    norm = nn.utils.get_total_norm(grads)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
