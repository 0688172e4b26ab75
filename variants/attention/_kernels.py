"""softmax(q k^T / sqrt(D) + mask) v for all variants, so that all use the same kernels.

Shapes: queries (..., H, Tq, D), keys and values (..., G, Tk, D), H a multiple of G.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to this many queries, training in bf16 on a CPU is faster with separate matrix products than
# fused.
FUSED_BF16_MIN_QUERIES = 512


@dataclass(frozen=True)
class Kernel:
    """How `attend` computes: by PyTorch's fused kernels, and with the keys of a group repeated."""

    fused: bool
    repeats_keys: bool


def choose_kernel(
    device_type: str,
    dtype: torch.dtype,
    n_queries: int,
    *,
    grouped: bool,
    softcapped: bool,
    needs_gradients: bool,
) -> Kernel:
    """Return the fastest kernel that computes these scores.

    The backward pass of the fused kernel is slow for few queries in bf16 on a CPU. PyTorch's fused
    fp32 kernels on CUDA do not support groups and would fall back to the slow math kernel.
    """
    few_bf16 = (
        device_type == "cpu" and dtype == torch.bfloat16 and n_queries <= FUSED_BF16_MIN_QUERIES
    )
    fused = not softcapped and not (few_bf16 and needs_gradients)
    ungrouped_only = not fused or (device_type == "cuda" and dtype == torch.float32)
    return Kernel(fused, repeats_keys=grouped and ungrouped_only)


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
    kernel = choose_kernel(
        q.device.type,
        q.dtype,
        q.shape[-2],
        grouped=n_group > 1,
        softcapped=bool(softcap),
        needs_gradients=torch.is_grad_enabled(),
    )
    if kernel.repeats_keys:
        k = k.repeat_interleave(n_group, dim=-3)
        v = v.repeat_interleave(n_group, dim=-3)
        n_group = 1
    if not kernel.fused:
        scale = scale or q.shape[-1] ** -0.5
        return _attend_unfused(q, k, v, mask, is_causal, dropout, scale, softcap)
    return F.scaled_dot_product_attention(
        q, k, v, mask, dropout, is_causal, scale=scale, enable_gqa=n_group > 1
    )


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
