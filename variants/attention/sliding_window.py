"""Sliding window: a query sees the last `window` positions (Beltagy et al. 2020, 3.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from variants.attention._block_sparse import HeadBias, attend_blocks
from variants.attention._cache import KeyValueCache
from variants.attention._flex_tiles import attend_tiles
from variants.attention._window import FULL, MaskedPositional, Window, check_pattern
from variants.attention.mha import MultiHead, MultiHeadOptions
from variants.base import ModelShape, Positional
from variants.tensor_parallel import TensorParallelPlan
from variants.validation import Length, one_for_each


@dataclass(frozen=True, kw_only=True)
class SlidingWindowOptions(MultiHeadOptions):
    """The number of visible keys, including the query's own, by layer, and their distances.

    `window` and `dilation` are a number or a list with one number for each layer. `layer_pattern`
    is a string of letters, repeated over the layers: layers S use the window, layers L full
    attention ("SSSL"). The query at p sees p, p - dilation, p - 2 dilation ...; `head_dilation`
    lists a dilation for each head instead. The first `global_tokens` positions are visible to all
    later queries; unlike in Longformer, they have no projections of their own.
    """

    window: Length | list[Length]
    layer_pattern: str = ""
    dilation: Length | list[Length] = 1
    head_dilation: list[Length] | None = None
    global_tokens: Length = 0

    def head_windows(self, layer: int, n_head: int) -> list[Window]:
        """Return the window of each head of a layer."""
        if self.layer_pattern and self.layer_pattern[layer % len(self.layer_pattern)] == "L":
            return [FULL] * n_head
        width = self.window[layer] if isinstance(self.window, list) else self.window
        dilation = self.dilation[layer] if isinstance(self.dilation, list) else self.dilation
        dilations = self.head_dilation or [dilation] * n_head
        return [Window(width, dilation, self.global_tokens) for dilation in dilations]


def _check_dilations(options: SlidingWindowOptions, seq_len: int) -> dict[str, str]:
    problems = {}
    for name in ("dilation", "head_dilation"):
        value = getattr(options, name)
        largest = max(value, default=1) if isinstance(value, list) else value or 1
        if largest > seq_len:
            reason = f"must be at most seq_len = {seq_len}: a query would see only its own position"
            problems[name] = f"{largest}: {reason}"
    return problems


class SlidingWindow(MultiHead[SlidingWindowOptions]):
    """Attention in blocks: a block of queries attends to its own keys and the window before it.

    Time and memory grow with T x W; a mask over full attention would cost more than full attention.
    If the window covers the sequence, this is full causal attention with the same kernel. When
    compiled for CUDA it uses flex_attention, unless there is a bias, a softcap, dropout, or
    dilation combined with global tokens or documents. Distances and the global tokens, the first
    ones of the sequence, do not depend on its documents; keys of other documents are hidden.
    """

    Options = SlidingWindowOptions
    title = "window {window}"
    supports_static_cache = True

    def __init__(self, shape: ModelShape, options: SlidingWindowOptions, layer: int) -> None:
        super().__init__(shape, options, layer)
        self.windows = options.head_windows(layer, shape.n_head)

    @property
    def runs(self) -> list[slice]:
        """Return the maximal ranges of consecutive heads that have the same window."""
        windows = self.windows
        changes = [h for h in range(1, len(windows)) if windows[h] != windows[h - 1]]
        return [slice(start, stop) for start, stop in pairwise([0, *changes, len(windows)])]

    def tensor_parallel_plan(self, rank: int, world_size: int) -> TensorParallelPlan:
        """Keep the windows of this rank's heads."""
        self.windows = self.windows[self.rank_slice(self.n_head, "heads", rank, world_size)]
        return super().tensor_parallel_plan(rank, world_size)

    @classmethod
    def check(cls, shape: ModelShape, options: SlidingWindowOptions) -> Mapping[str, str]:
        """Numbers must be positive, lists of the right length, and options consistent."""
        problems = {
            **super().check(shape, options),
            **one_for_each("window", options.window, "n_layer", shape.n_layer),
            **one_for_each("dilation", options.dilation, "n_layer", shape.n_layer),
        }
        if options.head_dilation is not None:
            problems |= one_for_each("head_dilation", options.head_dilation, "n_head", shape.n_head)
            if options.dilation != 1:
                reason = f"dilation = {options.dilation} is given as well: give one of them"
                problems["head_dilation"] = reason
        problems |= _check_dilations(options, shape.seq_len)
        if options.global_tokens < 0:
            problems["global_tokens"] = f"{options.global_tokens}: must be at least 0"
        pattern = options.layer_pattern
        return problems | check_pattern(pattern, options.window, shape.n_layer)

    def attend(
        self,
        q_BHTD: Tensor,
        k_BGTD: Tensor,
        v_BGTD: Tensor,
        positions_T: Tensor,
        positional: Positional,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Attend with each run of heads, or with all at once if the windows cover the sequence."""
        T = q_BHTD.shape[2]
        if all(window.covers(T) for window in self.windows):
            return super().attend(q_BHTD, k_BGTD, v_BGTD, positions_T, positional, documents_BT)
        outputs = []
        for heads in self.runs:
            window = self.windows[heads.start]
            q, k, v = (x[:, heads] for x in (q_BHTD, k_BGTD, v_BGTD))
            if self.can_tile(window, q, positional, documents_BT is not None):
                outputs.append(attend_tiles(window, q, k, v, documents_BT))
                continue
            window = FULL if window.covers(T) else window
            bias = HeadBias(positional, positions_T, heads) if positional.has_bias else None
            outputs.append(attend_blocks(window, q, k, v, bias, self.scores, documents_BT))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    def cache(
        self, batch: int, length: int, device: torch.device, dtype: torch.dtype
    ) -> KeyValueCache:
        """Return a cache of the global positions and of the span of the widest window."""
        n_global = self.windows[0].n_global
        n_cached = n_global + max(window.span for window in self.windows)
        if n_cached >= length:
            return super().cache(batch, length, device, dtype)
        size = (batch, self.n_kv_head, n_cached, self.head_dim)
        return KeyValueCache(size, device, dtype, n_kept=n_global)

    def attend_cache(
        self, q_BH1D: Tensor, cache: KeyValueCache, position_1: Tensor, positional: Positional
    ) -> Tensor:
        """Attend to the cache, except for keys that a dilated or global window hides."""
        if any(window.dilation > 1 or window.n_global for window in self.windows):
            positional = MaskedPositional(positional, self.windows)
        return super().attend_cache(q_BH1D, cache, position_1, positional)

    def visible_keys(self, seq_len: int) -> float:
        """Return the number of keys that a query sees, averaged over the sequence and the heads."""
        return sum(window.n_pairs(seq_len) for window in self.windows) / seq_len / self.n_head
