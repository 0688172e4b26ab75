"""softmax(q k^T / sqrt(D) + mask) v: one door to the kernels, so that variants differ by idea and not by kernel.

Legend of shapes: (..., H, Tq, D) queries, (..., G, Tk, D) keys and values, H a multiple of G.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FUSED_BF16_MIN_QUERIES = (
    512  # queries at once, up to which a CPU trains in bf16 faster with plain matrix products
)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    is_causal: bool = False,
    dropout: float = 0.0,
    scale: float | None = None,
    softcap: float = 0.0,
) -> Tensor:
    """Return (..., H, Tq, D). `mask` is True where a key is seen, or is added to the scores; `scale` is 1 / sqrt(D).

    `softcap`, if not 0, bounds scores s as softcap * tanh(s / softcap), which no fused kernel of PyTorch's does.
    """
    n_group = q.shape[-3] // k.shape[-3]
    if mask is not None and mask.is_floating_point():
        mask = mask.to(q.dtype)[
            (None,) * (q.ndim - mask.ndim)
        ]  # of three dimensions, no fused kernel takes it
    by_hand = bool(softcap) or _slow_when_fused(q)
    if n_group > 1 and (by_hand or (q.is_cuda and q.dtype == torch.float32)):
        # PyTorch's fused fp32 kernels on CUDA take no groups and would leave this to the slow math kernel.
        k, v = (x.repeat_interleave(n_group, dim=-3) for x in (k, v))
        n_group = 1
    if by_hand:
        return _by_hand(q, k, v, mask, is_causal, dropout, scale or q.shape[-1] ** -0.5, softcap)
    return F.scaled_dot_product_attention(
        q, k, v, mask, dropout, is_causal, scale=scale, enable_gqa=n_group > 1
    )


def _slow_when_fused(q: Tensor) -> bool:
    """Tell whether PyTorch's fused kernel takes longer than its parts: its backward pass in bf16 on a CPU does."""
    return (
        q.device.type == "cpu"
        and q.dtype == torch.bfloat16
        and q.shape[-2] <= FUSED_BF16_MIN_QUERIES
        and torch.is_grad_enabled()
    )


def _by_hand(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    dropout: float,
    scale: float,
    softcap: float,
) -> Tensor:
    scores = (q * (scale / (softcap or 1.0))) @ k.transpose(-1, -2)
    if softcap:
        scores = softcap * torch.tanh(scores)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        if mask.dtype == torch.bool:  # a sum costs less than a choice
            mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -torch.inf)
        scores = scores + mask
    return F.dropout(scores.softmax(-1), dropout) @ v
