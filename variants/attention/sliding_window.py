"""Sliding window: each position sees itself and the `window` - 1 before it (Beltagy et al. 2020, 3.1, made causal)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from variants.attention._block_sparse import attend_blocks, attend_tiles
from variants.attention._cache import KeyValueCache
from variants.attention._window import FULL, MaskedPositional, Window
from variants.attention.mha import MultiHead
from variants.base import ModelShape, Positional
from variants.tensor_parallel import TensorParallelPlan
from variants.validation import at_least_one


class SlidingWindow(MultiHead):
    """Computed block by block: a few queries see the keys of their own block and of a window before it.

    Time and memory grow with T x W. A mask over full attention would cost as much as full attention and more. Where
    the window covers the sequence, this *is* full causal attention, by the same path. Compiled for CUDA it is
    flex_attention, unless there is a bias, a bound for scores or dropout, or global tokens beside dilation.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(MultiHead.Options):
        """Parameters: how many keys a query sees, itself included; in which layers, how far apart, and which always.

        `window` and `dilation` are one number or a list with one for each layer. A `layer_pattern` of letters, repeated over
        the layers, gives the window to layers S and lets layers L see everything ("SSSL"). The query at p sees p,
        p - dilation, p - 2 dilation ...; `head_dilation` lists one for each head instead. The first `global_tokens`
        positions are seen from everywhere behind them; unlike Longformer's, they have no projections of their own.
        """

        window: int | list[int]
        layer_pattern: str = ""
        dilation: int | list[int] = 1
        head_dilation: list[int] | None = None
        global_tokens: int = 0

    def __init__(self, shape: ModelShape, options: Any, layer: int) -> None:
        super().__init__(shape, options, layer)
        self.windows = _windows(shape, options, layer)

    @property
    def runs(self) -> list[slice]:
        """Return the runs of heads that see the same."""
        n_head, windows = len(self.windows), self.windows
        starts = [0, *(h for h in range(1, n_head) if windows[h] != windows[h - 1]), n_head]
        return [slice(*ends) for ends in pairwise(starts)]

    def tensor_parallel_plan(self, rank: int, n: int) -> TensorParallelPlan:
        """Each head keeps what it sees."""
        self.windows = self.windows[self.rank_slice(self.n_head, "heads", rank, n)]
        return super().tensor_parallel_plan(rank, n)

    @classmethod
    def check(cls, shape: ModelShape, options: Any) -> Mapping[str, str]:
        """A query sees itself; lists are as long as what they are for; nothing is given twice or for nothing."""
        problems = {
            **super().check(shape, options),
            **_one_for_each("window", options.window, "n_layer", shape.n_layer),
            **_one_for_each("dilation", options.dilation, "n_layer", shape.n_layer),
        }
        if options.head_dilation is not None:
            problems |= _one_for_each(
                "head_dilation", options.head_dilation, "n_head", shape.n_head
            )
        if options.head_dilation is not None and options.dilation != 1:
            problems["head_dilation"] = (
                f"dilation = {options.dilation} is given as well: give one of them"
            )
        if options.global_tokens < 0:
            problems["global_tokens"] = f"{options.global_tokens}: must be at least 0"
        if options.layer_pattern and (
            wrong := _wrong_pattern(options.layer_pattern, options.window, shape.n_layer)
        ):
            problems["layer_pattern"] = f"'{options.layer_pattern}': {wrong}"
        return problems

    def attend(
        self,
        q_BHTD: Tensor,
        k_BGTD: Tensor,
        v_BGTD: Tensor,
        positions_T: Tensor,
        positional: Positional,
    ) -> Tensor:
        """Attend with each run of heads by itself; where all of them see everything, as ever."""
        T = q_BHTD.shape[2]
        if all(window.covers(T) for window in self.windows):
            return super().attend(q_BHTD, k_BGTD, v_BGTD, positions_T, positional)
        parts = []
        for heads in self.runs:
            window, (q, k, v) = (
                self.windows[heads.start],
                (x[:, heads] for x in (q_BHTD, k_BGTD, v_BGTD)),
            )
            if self._tiled(window, q, positional):
                parts.append(attend_tiles(window, q, k, v))
            else:
                bias = (
                    partial(_bias, positional, positions_T, heads) if positional.has_bias else None
                )
                parts.append(
                    attend_blocks(FULL if window.covers(T) else window, q, k, v, bias, self.scores)
                )
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _tiled(self, window: Window, q: Tensor, positional: Positional) -> bool:
        """Tell whether flex_attention can be used: compiled, as otherwise it makes all T x T scores."""
        dropout = self.training and self.dropout > 0
        plain = not (
            positional.has_bias
            or self.softcap
            or dropout
            or (window.dilation > 1 and window.n_global)
        )
        return (
            plain and q.is_cuda and torch.compiler.is_compiling() and self.head_dim >= 16
        )  # its smallest head

    def cache(
        self, batch: int, length: int, device: torch.device, dtype: torch.dtype
    ) -> KeyValueCache:
        """Return a ring of (window - 1) * dilation + 1 positions, and the global ones, whatever the length."""
        n_global, span = self.windows[0].n_global, max(window.span for window in self.windows)
        if n_global + span >= length:
            return super().cache(batch, length, device, dtype)
        size = (batch, self.n_kv_head, n_global + span, self.head_dim)
        return KeyValueCache(size, device, dtype, n_kept=n_global)

    def attend_cache(
        self, q_BH1D: Tensor, cache: KeyValueCache, position_1: Tensor, positional: Positional
    ) -> Tensor:
        """Attend to all that the cache holds, which may be more than is seen where keys are apart or kept."""
        if any(window.dilation > 1 or window.n_global for window in self.windows):
            positional = MaskedPositional(positional, self.windows)
        return super().attend_cache(q_BH1D, cache, position_1, positional)

    def visible_keys(self, seq_len: int) -> float:
        """Return how many keys a query sees, in the mean over the sequence and the heads."""
        return sum(window.n_pairs(seq_len) for window in self.windows) / seq_len / self.n_head


def _windows(shape: ModelShape, options: Any, layer: int) -> list[Window]:
    """Return what each head of a layer sees."""
    if options.layer_pattern and options.layer_pattern[layer % len(options.layer_pattern)] == "L":
        return [FULL] * shape.n_head
    width, dilation = (
        x[layer] if isinstance(x, list) else x for x in (options.window, options.dilation)
    )
    dilations = options.head_dilation or [dilation] * shape.n_head
    return [Window(width, dilation, options.global_tokens) for dilation in dilations]


def _bias(
    positional: Positional, positions_T: Tensor, heads: slice, i: Tensor, j: Tensor
) -> Tensor:
    """Return the bias of some heads between indices; those beyond T are padding, and their bias is of no account."""
    bias: Any = positional.bias(
        *(positions_T[index.clamp(max=len(positions_T) - 1)] for index in (i, j))
    )
    return bias if bias.shape[-3] == 1 else bias[..., heads, :, :]


def _one_for_each(name: str, value: int | list[int], of: str, n: int) -> dict[str, str]:
    """Check one number, or a list of as many as there are layers or heads."""
    if isinstance(value, int):
        return at_least_one(name, value)
    if len(value) != n:
        return {name: f"{len(value)} numbers for {of} = {n}: give one for each"}
    return {
        key: problem
        for i, x in enumerate(value)
        for key, problem in at_least_one(f"{name}[{i}]", x).items()
    }


def _wrong_pattern(pattern: str, window: int | list[int], n_layer: int) -> str:
    """Return what is wrong with a pattern, if anything."""
    if not set(pattern) <= set("SL") or "S" not in pattern:
        return "must be letters S (the window) and L (all that came before), at least one of them S"
    if len(pattern) > n_layer:
        return f"has {len(pattern)} letters for n_layer = {n_layer}"
    return (
        ""
        if isinstance(window, int)
        else f"window = {window} tells each layer's already: give one of them"
    )
