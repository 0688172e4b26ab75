"""What a query of a sliding window sees: one definition for training, decoding and counting."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from variants.base import Positional


@dataclass(frozen=True)
class Window:
    """The query at p sees p, p - dilation, ... (`width` of them) and the first `n_global` positions, none after p."""

    width: int
    dilation: int = 1
    n_global: int = 0

    def sees(self, q: Tensor, k: Tensor) -> Tensor:
        """Tell whether the query at position q sees the key at position k."""
        back = q - k
        near = (back < self.width * self.dilation) & (back % self.dilation == 0)
        return (back >= 0) & (near | (k < self.n_global))

    def n_pairs(self, seq_len: int) -> int:
        """Return how many pairs of a query and a key that it sees there are: with global keys, and with others."""
        n_global = min(self.n_global, seq_len)
        n_rounds, n_more = divmod(
            seq_len - n_global, self.dilation
        )  # in each round, every residue gains a key
        n_growing = min(self.width, n_rounds)
        others = n_growing * (n_growing + 1) // 2 + (n_rounds - n_growing) * self.width
        of_global = n_global * (n_global + 1) // 2 + n_global * (seq_len - n_global)
        return of_global + self.dilation * others + n_more * min(self.width, n_rounds + 1)

    def covers(self, seq_len: int) -> bool:
        """Tell whether all queries see all that is not later."""
        return self.n_pairs(seq_len) == seq_len * (seq_len + 1) // 2

    @property
    def span(self) -> int:
        """Return over how many positions it reaches, the query's own included."""
        return (self.width - 1) * self.dilation + 1


FULL = Window(sys.maxsize)


class MaskedPositional(Positional):
    """A positional that also hides from each head what its window does not see."""

    has_bias = True

    def __init__(self, positional: Positional, windows: Sequence[Window]) -> None:
        nn.Module.__init__(self)
        self.positional, self.windows = positional, windows

    def bias(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        """Return the bias of (Tq,) and (Tk,) positions, (H, Tq, Tk), minus infinity where nothing is seen."""
        seen_HQK = torch.stack(
            [window.sees(q_positions[:, None], k_positions) for window in self.windows]
        )
        bias = self.positional.bias(q_positions, k_positions)
        return torch.where(seen_HQK, 0.0 if bias is None else bias, -torch.inf)
