"""The visible keys of a sliding window, one definition for training, decoding and FLOPs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from variants.base import Positional


@dataclass(frozen=True)
class Window:
    """The query at p sees p, p - dilation, ... (`width` keys) and the first `n_global` keys."""

    width: int
    dilation: int = 1
    n_global: int = 0

    def sees(self, q: Tensor, k: Tensor) -> Tensor:
        """Return whether the query at position q sees the key at position k."""
        distance = q - k
        in_window = (distance < self.width * self.dilation) & (distance % self.dilation == 0)
        return (distance >= 0) & (in_window | (k < self.n_global))

    def n_pairs(self, seq_len: int) -> int:
        """Return the number of visible (query, key) pairs."""
        n_global = min(self.n_global, seq_len)
        global_pairs = n_global * (n_global + 1) // 2 + n_global * (seq_len - n_global)
        # Other keys by residue modulo the dilation: in each full round, every residue gains one
        # key.
        n_rounds, n_more = divmod(seq_len - n_global, self.dilation)
        n_growing = min(self.width, n_rounds)
        per_residue = n_growing * (n_growing + 1) // 2 + (n_rounds - n_growing) * self.width
        last_round = n_more * min(self.width, n_rounds + 1)
        return global_pairs + self.dilation * per_residue + last_round

    def covers(self, seq_len: int) -> bool:
        """Return whether every query sees all earlier positions, as in full attention."""
        return self.n_pairs(seq_len) == seq_len * (seq_len + 1) // 2

    @property
    def span(self) -> int:
        """Return the number of positions from the start of the window to the query, inclusive."""
        return (self.width - 1) * self.dilation + 1


FULL = Window(sys.maxsize)


class MaskedPositional(Positional):
    """A positional whose bias also hides the keys outside the window of each head."""

    has_bias = True

    def __init__(self, positional: Positional, windows: Sequence[Window]) -> None:
        nn.Module.__init__(self)
        self.positional = positional
        self.windows = windows

    def bias(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        """Return (H, Tq, Tk) for positions (Tq,) and (Tk,), minus infinity for hidden keys."""
        queries = q_positions[:, None]
        seen_HQK = torch.stack([window.sees(queries, k_positions) for window in self.windows])
        bias = self.positional.bias(q_positions, k_positions)
        return torch.where(seen_HQK, 0.0 if bias is None else bias, -torch.inf)


def check_pattern(pattern: str, window: int | list[int], n_layer: int) -> dict[str, str]:
    """Check `layer_pattern`, in the form of `Variant.check`."""
    if not pattern:
        return {}
    if not set(pattern) <= set("SL") or "S" not in pattern:
        problem = "must be letters S (the window) and L (all earlier positions), at least one S"
    elif len(pattern) > n_layer:
        problem = f"has {len(pattern)} letters for n_layer = {n_layer}"
    elif not isinstance(window, int):
        problem = f"window = {window} already sets each layer's window: give one of them"
    else:
        return {}
    return {"layer_pattern": f"'{pattern}': {problem}"}
