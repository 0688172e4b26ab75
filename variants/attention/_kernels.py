"""softmax(q k^T / sqrt(D) + mask) v for all variants, so that all use the same kernels.

Shapes: queries (..., H, Tq, D), keys and values (..., G, Tk, D), H a multiple of G.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to this many queries, training in bf16 on a CPU is faster with separate matrix products than
# fused.
FUSED_BF16_MIN_QUERIES = 512


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
    """Return (..., H, Tq, D). `mask` is True for visible keys, or is added to the scores.

    `scale` is 1 / sqrt(D) by default. If `softcap` is not 0, scores s become softcap * tanh(s /
    softcap), which none of PyTorch's fused kernels computes.
    """
    n_group = q.shape[-3] // k.shape[-3]
    if mask is not None and mask.is_floating_point():
        # PyTorch's fused kernels do not accept masks of three dimensions.
        mask = mask.to(q.dtype)[(None,) * (q.ndim - mask.ndim)]
    unfused = bool(softcap) or _slow_when_fused(q)
    if n_group > 1 and (unfused or (q.is_cuda and q.dtype == torch.float32)):
        # PyTorch's fused fp32 kernels on CUDA do not support groups and would fall back to the slow
        # math kernel.
        k = k.repeat_interleave(n_group, dim=-3)
        v = v.repeat_interleave(n_group, dim=-3)
        n_group = 1
    if unfused:
        scale = scale or q.shape[-1] ** -0.5
        return _attend_unfused(q, k, v, mask, is_causal, dropout, scale, softcap)
    return F.scaled_dot_product_attention(
        q, k, v, mask, dropout, is_causal, scale=scale, enable_gqa=n_group > 1
    )


def _slow_when_fused(q: Tensor) -> bool:
    """Return whether the fused kernel is slow, as its backward pass in bf16 on a CPU is."""
    bf16_on_cpu = q.device.type == "cpu" and q.dtype == torch.bfloat16
    return bf16_on_cpu and q.shape[-2] <= FUSED_BF16_MIN_QUERIES and torch.is_grad_enabled()


def _attend_unfused(
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
        if mask.dtype == torch.bool:  # an addition is cheaper than `where`
            mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -torch.inf)
        scores = scores + mask
    return F.dropout(scores.softmax(-1), dropout) @ v
