"""A penalty on every score that grows with distance, at a slope of each head's own (ALiBi; Press et al. 2022)."""

import math
from typing import Any

import torch
from torch import Tensor

from variants.base import ModelShape, Positional
from variants.tensor_parallel import TensorParallelPlan


class Alibi(Positional):
    """Adds -slope_h * (query position - key position); nothing is trained, so it extends to any length."""

    has_bias = True

    def __init__(self, shape: ModelShape, options: Any) -> None:
        super().__init__(shape, options)
        self.slopes = slopes(shape.n_head)

    def tensor_parallel_plan(self, rank: int, n: int) -> TensorParallelPlan:
        """Each head keeps its slope."""
        self.slopes = self.slopes[self.rank_slice(len(self.slopes), "heads", rank, n)]
        return TensorParallelPlan()

    def bias(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        """Return (..., H, Tq, Tk)."""
        slopes_H11 = torch.tensor(self.slopes, device=q_positions.device)[:, None, None]
        distance = q_positions[..., None, :, None] - k_positions[..., None, None, :]
        return -slopes_H11 * distance


def slopes(n_head: int) -> list[float]:
    """Return 2^(-8/n), 2^(-16/n), ... 2^-8 for n heads (section 3).

    Where n is no power of two: those of the next lower power, and then every other one of those of twice that power
    (the authors' code, `get_slopes`).
    """
    n = 2 ** int(math.log2(n_head))
    more = [2 ** (-4 * i / n) for i in range(1, 2 * n, 2)]
    return ([2 ** (-8 * i / n) for i in range(1, n + 1)] + more)[:n_head]
