"""The cross-entropy of each token, whose gradient in training may be that of another objective.

Legend of shapes: B batch, T sequence, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """The terms that training minimizes besides the cross-entropy of the targets.

    The targets keep 1 - `label_smoothing` of the probability, and all tokens share the rest equally
    (Szegedy et al. 2016, section 7). `z_loss` * log(Z)^2 keeps the softmax's normalizer Z near 1
    (Chowdhery et al. 2022, section 5; Zoph et al. 2022, eq. 5).
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0


CROSS_ENTROPY = Objective()


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which losses of logits of a type are computed."""
    return torch.promote_types(dtype, torch.float32)


def mean_loss(losses_BT: Tensor) -> Tensor:
    """Return the mean, a scalar with the bits of `losses_BT.mean()`.

    The gradient of `mean` is a tensor of equal numbers; this one is expanded from one number, so
    that `chunked_token_losses` need not compare values.
    """
    return losses_BT.sum() / losses_BT.numel()


def token_losses(
    logits_BTV: Tensor, targets_BT: Tensor, objective: Objective = CROSS_ENTROPY
) -> Tensor:
    """Return the cross-entropy of each target, (B, T), nats, with the gradient of the objective.

    The targets may have any shape, such as (N,); the logits have one more dimension, V.
    The recorded training loss is thus the cross-entropy, which entries with other objectives share.
    """
    losses = F.cross_entropy(logits_BTV.flatten(0, -2), targets_BT.flatten(), reduction="none")
    losses_BT = losses.view_as(targets_BT)
    if objective == CROSS_ENTROPY:
        return losses_BT
    targets_BT1 = targets_BT[..., None]
    target_logits_BT = logits_BTV.gather(-1, targets_BT1)[..., 0]
    # The smoothed loss is (1 - s) (log Z - target logit) + s (log Z - mean logit).
    smoothing_BT = objective.label_smoothing * (target_logits_BT - logits_BTV.mean(-1))
    log_z_BT = losses_BT + target_logits_BT  # not by `logsumexp`, which would store all logits
    minimized_BT = losses_BT + smoothing_BT + objective.z_loss * log_z_BT.square()
    return losses_BT.detach() + (minimized_BT - minimized_BT.detach())
