"""Losses with the gradients of their logits, also of logits whose vocabulary is sharded.

Legend of shapes: B batch, T sequence, N tokens, V vocabulary, or this rank's tokens of it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from harness.model.loss import Objective, at_least_fp32
from variants.tensor_parallel import VocabularyShard


class _Softmax(NamedTuple):
    """Probabilities (N, V), log Z and log-probability of the target (N, 1).

    Further, the column of the target (N, 1), and 1 if this rank has it, else 0, (N, 1) or 1.
    """

    p_NV: Tensor
    log_z_N1: Tensor
    target_log_p_N1: Tensor
    column_N1: Tensor
    n_own_N1: Tensor | int


def logit_gradients(
    logits_NV: Tensor,
    targets_N: Tensor,
    objective: Objective,
    vocabulary: VocabularyShard | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropies (N,) and the gradients of the objectives (N, V).

    Logits, and their gradients, are those of this rank's tokens if the `vocabulary` is sharded; the
    cross-entropies are those of all tokens.
    """
    if vocabulary is None:
        softmax = _softmax(logits_NV, targets_N)
        size = logits_NV.shape[1]
    else:
        softmax = _sharded_softmax(logits_NV, targets_N, vocabulary)
        size = vocabulary.size
    smoothing = objective.label_smoothing
    grad_NV = softmax.p_NV
    if objective.z_loss:
        grad_NV.mul_(1 + 2 * objective.z_loss * softmax.log_z_N1)
    if smoothing:
        grad_NV.sub_(smoothing / size)
    columns = softmax.column_N1
    target_grad_N1 = grad_NV.gather(1, columns) - (1 - smoothing) * softmax.n_own_N1
    grad_NV.scatter_(1, columns, target_grad_N1)
    return -softmax.target_log_p_N1[:, 0], grad_NV


def _softmax(logits_NV: Tensor, targets_N: Tensor) -> _Softmax:
    targets_N1 = targets_N[:, None]
    log_p_NV = F.log_softmax(logits_NV, dim=-1, dtype=at_least_fp32(logits_NV.dtype))
    target_log_p_N1 = log_p_NV.gather(1, targets_N1)
    log_z_N1 = logits_NV.gather(1, targets_N1) - target_log_p_N1
    return _Softmax(log_p_NV.exp_(), log_z_N1, target_log_p_N1, targets_N1, 1)


def _sharded_softmax(logits_NV: Tensor, targets_N: Tensor, vocabulary: VocabularyShard) -> _Softmax:
    """Reduce the maxima, then the sums of exponentials and the targets' logits (Megatron-LM)."""
    logits_NV = logits_NV.to(at_least_fp32(logits_NV.dtype))
    largest_N1 = vocabulary.max(logits_NV.amax(dim=1, keepdim=True))
    column_N1 = targets_N[:, None] - vocabulary.tokens.start
    is_own_N1 = (column_N1 >= 0) & (column_N1 < len(vocabulary.tokens))
    column_N1 = column_N1.where(is_own_N1, 0)
    target_N1 = (logits_NV.gather(1, column_N1) - largest_N1).where(is_own_N1, 0.0)
    p_NV = (logits_NV - largest_N1).exp_()
    sums_N2 = vocabulary.sum(torch.cat((p_NV.sum(dim=1, keepdim=True), target_N1), dim=1))
    z_N1, target_N1 = sums_N2.split(1, dim=1)
    log_z_N1 = z_N1.log()
    p_NV.div_(z_N1)
    n_own_N1 = is_own_N1.to(p_NV.dtype)
    return _Softmax(p_NV, log_z_N1 + largest_N1, target_N1 - log_z_N1, column_N1, n_own_N1)


class _ShardedLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits_NV: Tensor,
        targets_N: Tensor,
        objective: Objective,
        vocabulary: VocabularyShard,
    ) -> Tensor:
        losses_N, grad_NV = logit_gradients(logits_NV, targets_N, objective, vocabulary)
        ctx.save_for_backward(grad_NV)
        return losses_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_NV,) = ctx.saved_tensors
        return grad_NV * grads[0][:, None], None, None, None


_sharded_losses: Callable[[Tensor, Tensor, Objective, VocabularyShard], Tensor] = (
    _ShardedLosses.apply
)


def sharded_token_losses(
    logits: Tensor, targets: Tensor, objective: Objective, vocabulary: VocabularyShard
) -> Tensor:
    """Return `token_losses`, (...), of this rank's logits, (..., V), and targets, (...)."""
    losses_N = _sharded_losses(logits.flatten(0, -2), targets.flatten(), objective, vocabulary)
    return losses_N.view_as(targets)
