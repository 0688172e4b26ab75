"""ALiBi: a penalty on scores that grows linearly with distance, by head (Press et al. 2022)."""

import math

import torch
from torch import Tensor

from variants.base import ModelShape, NoOptions, Positional
from variants.tensor_parallel import TensorParallelPlan


class Alibi(Positional[NoOptions]):
    """Add -slope_h * (query position - key position); without parameters, defined at any length."""

    title = "ALiBi"

    has_bias = True
    prepared: Tensor | None = None

    def __init__(self, shape: ModelShape, options: NoOptions) -> None:
        super().__init__(shape, options)
        self.slopes = slopes(shape.n_head)

    def tensor_parallel_plan(self, rank: int, world_size: int) -> TensorParallelPlan:
        """Keep the slopes of this rank's heads."""
        self.slopes = self.slopes[self.rank_slice(len(self.slopes), "heads", rank, world_size)]
        return TensorParallelPlan()

    def prepare(self, positions_T: Tensor, width: int, dtype: torch.dtype) -> None:
        """Keep the slopes on the device: a CUDA graph cannot copy them from the host."""
        if self.prepared is None or self.prepared.device != positions_T.device:
            self.prepared = self._slopes(positions_T.device)

    def _slopes(self, device: torch.device) -> Tensor:
        slopes_H11 = torch.tensor(self.slopes, device=device)[:, None, None]
        return slopes_H11

    def bias(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        """Return (..., H, Tq, Tk)."""
        slopes_H11 = self.prepared
        if slopes_H11 is None or slopes_H11.device != q_positions.device:
            slopes_H11 = self._slopes(q_positions.device)
        distance = q_positions[..., None, :, None] - k_positions[..., None, None, :]
        return -slopes_H11 * distance


def slopes(n_head: int) -> list[float]:
    """Return 2^(-8/n), 2^(-16/n), ... 2^-8 for n heads (section 3).

    If n is not a power of two: the slopes of the next lower power, followed by every other slope of
    twice that power (the authors' code, `get_slopes`).
    """
    n = 2 ** int(math.log2(n_head))
    regular = [2 ** (-8 * i / n) for i in range(1, n + 1)]
    additional = [2 ** (-4 * i / n) for i in range(1, 2 * n, 2)]
    return (regular + additional)[:n_head]
