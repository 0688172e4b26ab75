"""The output projection and the losses of a few tokens at a time: all logits never exist at once.

Legend of shapes: B batch, T sequence, N tokens, C channels, V vocabulary.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from harness.model.loss import Objective, at_least_fp32
from harness.model.precision import product_dtype
from harness.model.sharded_loss import logit_gradients
from variants.tensor_parallel import VocabularyShard


def chunks(n_tokens: int, max_tokens: int) -> Iterator[slice]:
    """Yield consecutive slices of almost equal size, each of at most `max_tokens`.

    A last chunk of few rows would be slow, and its products may be rounded otherwise.
    """
    n_chunks = -(-n_tokens // max_tokens)
    size = -(-n_tokens // n_chunks)
    for start in range(0, n_tokens, size):
        yield slice(start, min(start + size, n_tokens))


def chunked_token_losses(
    hidden_BTC: Tensor,
    weight_VC: Tensor,
    targets_BT: Tensor,
    objective: Objective,
    max_tokens: int,
    vocabulary: VocabularyShard | None = None,
) -> Tensor:
    """Return `token_losses` of the logits hidden W^T, computed `max_tokens` rows at a time.

    The forward pass also computes the gradients with respect to `hidden` and `weight` as if those
    of all losses were 1: otherwise logits would be stored, or computed twice. The backward pass
    scales them by the gradient of the losses, and computes them again if the losses' gradients
    differ. With a sharded `vocabulary`, W has the rows of this rank's tokens, and the gradient with
    respect to `hidden` is that of their logits.
    """
    hidden_NC = hidden_BTC.flatten(0, 1)
    targets_N = targets_BT.flatten()
    losses_N = _chunked_losses(hidden_NC, weight_VC, targets_N, objective, max_tokens, vocabulary)
    return losses_N.view_as(targets_BT)


class _ChunkedLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NC: Tensor,
        weight_VC: Tensor,
        targets_N: Tensor,
        objective: Objective,
        max_tokens: int,
        vocabulary: VocabularyShard | None,
    ) -> Tensor:
        ctx.settings = (objective, max_tokens, product_dtype(weight_VC), vocabulary)
        losses_N, *gradients = _losses_and_gradients(hidden_NC, weight_VC, targets_N, *ctx.settings)
        ctx.save_for_backward(hidden_NC, weight_VC, targets_N, *gradients)
        return losses_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        (grad_N,) = grads
        hidden_NC, weight_VC, targets_N, hidden_grad_NC, weight_grad_VC = ctx.saved_tensors
        if are_equal(grad_N):
            # In place: copies would raise the peak. PyTorch rejects a second backward pass.
            hidden_grad_NC.mul_(grad_N[0])
            weight_grad_VC.mul_(grad_N[0])
        else:
            objective, max_tokens, dtype, vocabulary = ctx.settings
            _, hidden_grad_NC, weight_grad_VC = _losses_and_gradients(
                hidden_NC,
                weight_VC,
                targets_N,
                objective,
                max_tokens,
                dtype,
                vocabulary,
                grad_N,
            )
        return hidden_grad_NC, weight_grad_VC, None, None, None, None


_chunked_losses: Callable[
    [Tensor, Tensor, Tensor, Objective, int, VocabularyShard | None], Tensor
] = _ChunkedLosses.apply


def are_equal(values_N: Tensor) -> bool:
    """Return whether all values are equal, as are the gradients of losses whose mean is taken.

    `mean_loss` expands its gradient from one number, which the strides show. Other gradients are
    read, which makes the host wait for a GPU.
    """
    is_expanded = all(stride == 0 for stride in values_N.stride())
    return is_expanded or bool((values_N == values_N[0]).all())


def _losses_and_gradients(
    hidden_NC: Tensor,
    weight_VC: Tensor,
    targets_N: Tensor,
    objective: Objective,
    max_tokens: int,
    dtype: torch.dtype,
    vocabulary: VocabularyShard | None,
    scale_N: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cross-entropies, and the gradients of the sum of the objectives times `scale`.

    Products are computed in `dtype`. The gradient of the weight is summed in fp32 at least.
    """
    factor_VC = weight_VC.to(dtype)
    losses = []
    hidden_grad_NC = torch.empty_like(hidden_NC)
    weight_grad_VC = torch.empty_like(weight_VC, dtype=at_least_fp32(dtype))
    n_together = rows_per_weight_product(weight_VC.shape[1], max_tokens, dtype)
    for i, group in enumerate(chunks(len(targets_N), n_together)):
        rows_NC = hidden_NC[group].to(dtype)
        losses_N, grad_NV = _logit_gradients(
            rows_NC,
            factor_VC,
            targets_N[group],
            objective,
            max_tokens,
            vocabulary,
            None if scale_N is None else scale_N[group],
        )
        losses.append(losses_N)
        hidden_grad_NC[group] = grad_NV @ factor_VC
        if dtype == weight_grad_VC.dtype:
            beta = 0 if i == 0 else 1
            torch.addmm(weight_grad_VC, grad_NV.mT, rows_NC, beta=beta, out=weight_grad_VC)
        elif i == 0:
            weight_grad_VC.copy_(grad_NV.mT @ rows_NC)
        else:
            weight_grad_VC += grad_NV.mT @ rows_NC
        del grad_NV  # before the next logits
    return torch.cat(losses), hidden_grad_NC, weight_grad_VC


def rows_per_weight_product(n_embd: int, max_tokens: int, dtype: torch.dtype) -> int:
    """Return the number of tokens whose share of the weight's gradient is one product.

    A product in bf16 is rounded, then added to the sum in fp32: with few tokens that takes longer
    than the product. The gradients of the logits of several chunks are kept for one product, up to
    the memory of the weight's gradient. Products in fp32 add to the sum themselves.
    """
    bytes_per_sum = at_least_fp32(dtype).itemsize
    if dtype.itemsize == bytes_per_sum:
        return max_tokens
    return max(max_tokens, n_embd * bytes_per_sum // dtype.itemsize)


def _logit_gradients(
    rows_NC: Tensor,
    factor_VC: Tensor,
    targets_N: Tensor,
    objective: Objective,
    max_tokens: int,
    vocabulary: VocabularyShard | None,
    scale_N: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropies (N,) and the objectives' gradients times `scale` (N, V).

    The gradients have the type of `rows`. Logits in fp32 exist for `max_tokens` at a time.
    """
    losses = []
    gradients_NV = None
    for chunk in chunks(len(rows_NC), max_tokens):
        logits_NV = F.linear(rows_NC[chunk], factor_VC)
        losses_N, grad_NV = logit_gradients(logits_NV, targets_N[chunk], objective, vocabulary)
        del logits_NV
        losses.append(losses_N)
        if scale_N is not None:
            grad_NV.mul_(scale_N[chunk, None])
        if len(losses_N) == len(rows_NC):
            return losses_N, grad_NV.to(rows_NC.dtype)
        if gradients_NV is None:
            gradients_NV = rows_NC.new_empty(len(rows_NC), len(factor_VC))
        gradients_NV[chunk] = grad_NV
        del grad_NV  # before the next logits
    assert gradients_NV is not None
    return torch.cat(losses), gradients_NV
