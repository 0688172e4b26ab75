"""Multi-head attention, as in GPT-2: each head has its q, k and v (Vaswani et al. 2017, 3.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import TypeVar

from variants.attention._cache import KeyValueCache
from variants.attention._flex_tiles import attend_tiles, can_tile
from variants.attention._head_norm import HeadNorm
from variants.attention._kernels import attend
from variants.attention._window import Window
from variants.base import Attention, InitSpec, ModelShape, Positional, residual_std
from variants.linear import Linear
from variants.tensor_parallel import TensorParallelPlan


@dataclass(frozen=True, kw_only=True)
class MultiHeadOptions:
    """Normalization of q and k, and a bound of the scores (0 is none).

    `qk_norm` gives q and k of each head unit root mean square, times a trained gain (Henry et al.
    2020; Dehghani et al. 2023). `logit_softcap` maps scores s to cap * tanh(s / cap) (Gemma Team
    2024, 2.1).
    """

    qk_norm: bool = False
    logit_softcap: float = 0.0


OptionsT = TypeVar("OptionsT", bound=MultiHeadOptions, default=MultiHeadOptions)


class MultiHead(Attention[OptionsT]):
    """Projection `c_attn` to q, k and v, scaled dot-product attention, projection `c_proj` back.

    Variants that differ in the number of key-value heads or in the visible keys derive from this
    class.
    """

    title = "MHA"

    Options: ClassVar[type] = MultiHeadOptions
    supports_documents = True
    supports_static_cache = True

    def __init__(self, shape: ModelShape, options: OptionsT, layer: int) -> None:
        super().__init__(shape, options, layer)
        self.n_head = shape.n_head
        self.n_kv_head = self.kv_heads(shape, options)
        self.head_dim = shape.head_dim
        self.q_width = shape.n_embd
        self.kv_width = self.n_kv_head * shape.head_dim
        self.c_attn = Linear(shape.n_embd, self.q_width + 2 * self.kv_width, shape.bias)
        self.c_proj = Linear(shape.n_embd, shape.n_embd, shape.bias)
        self.dropout = shape.dropout
        self.init_std = shape.init_std
        self.proj_std = residual_std(shape)
        self.softcap = options.logit_softcap
        self.q_norm = HeadNorm(shape.head_dim) if options.qk_norm else nn.Identity()
        self.k_norm = HeadNorm(shape.head_dim) if options.qk_norm else nn.Identity()

    @classmethod
    def check(cls, shape: ModelShape, options: OptionsT) -> Mapping[str, str]:
        """`logit_softcap` must not be negative."""
        cap = options.logit_softcap
        return {} if cap >= 0 else {"logit_softcap": f"{cap}: must be positive, or 0 for none"}

    @staticmethod
    def kv_heads(shape: ModelShape, options: OptionsT) -> int:
        """Return the number of key-value heads, a divisor of `n_head`."""
        return shape.n_head

    def init_specs(self) -> Mapping[str, InitSpec]:
        """Initialize q, k and v independently; scale down the residual projection by depth."""
        blocks = (("q", self.q_width), ("k", self.kv_width), ("v", self.kv_width))
        return {
            "q_norm.weight": InitSpec(value=1.0),
            "k_norm.weight": InitSpec(value=1.0),
            "c_attn.weight": InitSpec(std=self.init_std, blocks=blocks),
            "c_proj.weight": InitSpec(std=self.proj_std),
        }

    def tensor_parallel_plan(self, rank: int, world_size: int) -> TensorParallelPlan:
        """Compute some heads, and the key-value heads that they attend with."""
        self.rank_slice(self.n_head, "heads", rank, world_size)
        self.rank_slice(self.n_kv_head, "key-value heads", rank, world_size)
        self.n_head //= world_size
        self.n_kv_head //= world_size
        self.q_width //= world_size
        self.kv_width //= world_size
        gains = ("q_norm.weight", "k_norm.weight")
        return TensorParallelPlan(("c_attn",), ("c_proj",), replicated=gains)

    def forward(
        self,
        x_BTC: Tensor,
        positions_T: Tensor,
        positional: Positional,
        cache: KeyValueCache | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Project, attend, project back."""
        B, T, _ = x_BTC.shape
        q, k, v = self.c_attn(x_BTC).split((self.q_width, self.kv_width, self.kv_width), dim=-1)
        q_BHTD = q.view(B, T, self.n_head, self.head_dim).transpose(1, 2)
        k_BGTD = k.view(B, T, self.n_kv_head, self.head_dim).transpose(1, 2)
        v_BGTD = v.view(B, T, self.n_kv_head, self.head_dim).transpose(1, 2)
        q_BHTD, k_BGTD = positional.rotate(self.q_norm(q_BHTD), self.k_norm(k_BGTD), positions_T)
        decoding = cache is not None and cache.n_seen > 0
        if cache is not None:
            cache.append(k_BGTD, v_BGTD)
        if cache is not None and decoding:
            y_BHTD = self.attend_cache(q_BHTD, cache, positions_T, positional)
        else:
            documents = () if documents_BT is None else (documents_BT,)
            y_BHTD = self.attend(q_BHTD, k_BGTD, v_BGTD, positions_T, positional, *documents)
        y_BTC = self.c_proj(y_BHTD.transpose(1, 2).reshape(B, T, -1))
        return F.dropout(y_BTC, self.dropout, self.training)

    def attend(
        self,
        q_BHTD: Tensor,
        k_BGTD: Tensor,
        v_BGTD: Tensor,
        positions_T: Tensor,
        positional: Positional,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Attend causally, with the positional's bias if it has one, within each document.

        Compiled for CUDA, flex_attention skips the tiles between documents.
        """
        everything = Window(q_BHTD.shape[2])
        if documents_BT is not None and self.can_tile(everything, q_BHTD, positional, True):
            return attend_tiles(everything, q_BHTD, k_BGTD, v_BGTD, documents_BT)
        bias = positional.causal_bias(positions_T, documents_BT)
        return self.scores(q_BHTD, k_BGTD, v_BGTD, bias, is_causal=bias is None)

    def can_tile(
        self, window: Window, q_BHTD: Tensor, positional: Positional, documents: bool
    ) -> bool:
        """Return whether flex_attention computes these scores, and is faster."""
        dropout = self.training and self.dropout > 0
        return can_tile(
            window,
            q_BHTD.device.type,
            q_BHTD.dtype,
            q_BHTD.shape[-1],
            compiling=torch.compiler.is_compiling(),
            plain_scores=not (positional.has_bias or self.softcap or dropout),
            documents=documents,
        )

    def cache(
        self, batch: int, length: int, device: torch.device, dtype: torch.dtype
    ) -> KeyValueCache:
        """Return a cache of `length` positions; beyond these the oldest are overwritten."""
        return KeyValueCache((batch, self.n_kv_head, length, self.head_dim), device, dtype)

    def attend_cache(
        self, q_BH1D: Tensor, cache: KeyValueCache, position_1: Tensor, positional: Positional
    ) -> Tensor:
        """Attend from one position to the cache; the R query heads of a group share its keys."""
        k_BGLD, v_BGLD = cache.visible()
        bias = cache.bias(positional, position_1)
        if bias is not None:
            bias_H1L = bias.expand(self.n_head, 1, -1)
            bias = bias_H1L.view(self.n_kv_head, -1, k_BGLD.shape[2]).to(q_BH1D.dtype)
        q_BGRD = q_BH1D.reshape(len(q_BH1D), self.n_kv_head, -1, self.head_dim)
        return self.scores(q_BGRD, k_BGLD, v_BGLD, bias).reshape(q_BH1D.shape)

    def scores(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool = False
    ) -> Tensor:
        """Return softmax(q k / sqrt(D) + mask) v; query heads may share key-value heads."""
        dropout = self.dropout if self.training else 0.0
        return attend(q, k, v, mask, is_causal=is_causal, dropout=dropout, softcap=self.softcap)

    def visible_keys(self, seq_len: int) -> float:
        """Return the number of keys that a query attends to, averaged over the sequence."""
        return (seq_len + 1) / 2

    def flops_per_token(self, seq_len: int) -> float:
        """Count the projections, and two products of 2 C FLOPs for each visible key."""
        weights = 2.0 * (self.c_attn.weight.numel() + self.c_proj.weight.numel())
        return weights + 4.0 * self.q_width * self.visible_keys(seq_len)
