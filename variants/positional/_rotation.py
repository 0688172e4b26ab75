"""Rotation of pairs of dimensions with a memory-efficient gradient.

Shapes: x (..., T, D), cos (T, D), sin (T, R/2); the first R dimensions are rotated.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Rotate(torch.autograd.Function):
    """(x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin). The gradient rotates back and needs no x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos_TD: Tensor, sin_TR: Tensor, interleaved: bool) -> Tensor:
        ctx.save_for_backward(cos_TD, sin_TR)
        ctx.interleaved = interleaved
        width = 2 * sin_TR.shape[-1]
        y = x * cos_TD
        x1, x2 = _pairs(x[..., :width], interleaved)
        y1, y2 = _pairs(y[..., :width], interleaved)
        y1.addcmul_(x2, sin_TR, value=-1)
        y2.addcmul_(x1, sin_TR)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cos_TD, sin_TR = ctx.saved_tensors
        return rotate_pairs(grads[0], cos_TD, -sin_TR, ctx.interleaved), None, None, None


rotate_pairs: Callable[[Tensor, Tensor, Tensor, bool], Tensor] = _Rotate.apply


def _pairs(x: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    """Return views of the first and the second dimension of each pair."""
    if interleaved:
        return x[..., 0::2], x[..., 1::2]
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]
