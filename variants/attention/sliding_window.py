"""Sliding window: each position sees itself and the `window` - 1 before it (Beltagy et al. 2020, 3.1, made causal)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from variants.api import Positional, Shape, at_least_one
from variants.attention._cache import KeyValueCache
from variants.attention.mha import MultiHead


class SlidingWindow(MultiHead):
    """Computed block by block: W queries see at most the 2W keys of their own block and the one before.

    Time and memory grow with T x W. A mask over full attention would cost as much as full attention and more. Where
    the window covers the sequence, this *is* full causal attention, by the same path.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(MultiHead.Options):
        """Parameters: how many keys a query sees, itself included."""

        window: int

    def __init__(self, shape: Shape, options: Any, layer: int) -> None:
        super().__init__(shape, options, layer)
        self.window = options.window

    @classmethod
    def check(cls, shape: Shape, options: Any) -> Mapping[str, str]:
        """A query sees at least itself."""
        return {**super().check(shape, options), **at_least_one("window", options.window)}

    def attend(
        self, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, positions_T: Tensor, positional: Positional
    ) -> Tensor:
        """Attend in the first block as ever, in all others to two blocks of keys under one mask."""
        T, W = q_BHTD.shape[-2], self.window
        if W >= T:
            return super().attend(q_BHTD, k_BGTD, v_BGTD, positions_T, positional)
        head = [x[..., :W, :] for x in (q_BHTD, k_BGTD, v_BGTD)]
        first_BHWD = super().attend(head[0], head[1], head[2], positions_T[:W], positional)

        n_blocks = -(-T // W)  # the last one may be padded: its last queries are dropped, its last keys are never seen
        pad = n_blocks * W - T
        q_BNHWD, k_BNGWD, v_BNGWD = (
            F.pad(x, (0, 0, 0, pad)).unflatten(-2, (n_blocks, W)).transpose(1, 2) for x in (q_BHTD, k_BGTD, v_BGTD)
        )
        k_BNGKD, v_BNGKD = (torch.cat((x[:, :-1], x[:, 1:]), dim=-2) for x in (k_BNGWD, v_BNGWD))

        mask = self.mask(positions_T, pad, positional, len(q_BHTD))
        y = self.scores(q_BNHWD[:, 1:].flatten(0, 1), k_BNGKD.flatten(0, 1), v_BNGKD.flatten(0, 1), mask)
        rest_BHTD = y.unflatten(0, (-1, n_blocks - 1)).transpose(1, 2).flatten(2, 3)
        return torch.cat((first_BHWD, rest_BHTD[..., : T - W, :]), dim=-2)

    def cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> KeyValueCache:
        """Return a ring of `window` positions, whatever the length."""
        return super().cache(batch, min(self.window, length), device, dtype)

    def mask(self, positions_T: Tensor, pad: int, positional: Positional, n_batch: int) -> Tensor:
        """Return which of its 2W keys a block's query r sees: (W, 2W), those c with r < c <= r + W.

        With a positional's bias, the bias instead: (B * blocks, H, W, 2W), minus infinity where nothing is seen.
        """
        W = self.window
        row, column = (
            torch.arange(W, device=positions_T.device)[:, None],
            torch.arange(2 * W, device=positions_T.device),
        )
        seen = (column > row) & (column <= row + W)
        blocks_NW = F.pad(positions_T, (0, pad)).view(-1, W)
        bias = positional.bias(blocks_NW[1:], torch.cat((blocks_NW[:-1], blocks_NW[1:]), dim=-1))
        if bias is None:
            return seen
        return bias.masked_fill(~seen, -torch.inf).repeat(n_batch, 1, 1, 1)

    def visible_keys(self, seq_len: int) -> float:
        """Return min(t + 1, window) in the mean over the sequence."""
        W = min(self.window, seq_len)
        return W - W * (W - 1) / (2 * seq_len)
