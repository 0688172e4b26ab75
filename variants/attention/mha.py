"""Multi-head attention: every head has its own queries, keys and values (Vaswani et al. 2017, 3.2; GPT-2's own)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.attention._cache import KeyValueCache
from variants.attention._head_norm import EPSILON, HeadNorm
from variants.attention._kernels import attend
from variants.base import Attention, InitSpec, ModelShape, Positional, residual_std
from variants.linear import Linear
from variants.tensor_parallel import TensorParallelPlan


class MultiHead(Attention):
    """One projection `c_attn` to q, k and v, scaled dot products, one projection `c_proj` back.

    Variants that differ in the number of key-value heads or in what a query sees derive from this class.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Parameters: whether q and k are normalised, and a bound for scores (0 is none).

        `qk_norm` gives each head's q and k unit root mean square, times a trained gain (Henry et al. 2020; Dehghani et
        al. 2023). `logit_softcap` keeps scores s below it as cap * tanh(s / cap) (Gemma Team 2024, 2.1).
        """

        qk_norm: bool = False
        logit_softcap: float = 0.0

    def __init__(self, shape: ModelShape, options: Any, layer: int) -> None:
        super().__init__(shape, options, layer)
        self.n_head, self.n_kv_head, self.head_dim = (
            shape.n_head,
            self.kv_heads(shape, options),
            shape.head_dim,
        )
        self.q_width, self.kv_width = shape.n_embd, self.n_kv_head * shape.head_dim
        self.c_attn = Linear(shape.n_embd, self.q_width + 2 * self.kv_width)
        self.c_proj = Linear(shape.n_embd, shape.n_embd)
        self.dropout, self.proj_std = shape.dropout, residual_std(shape)
        self.softcap = options.logit_softcap
        self.q_norm, self.k_norm = (
            HeadNorm(shape.head_dim, EPSILON) if options.qk_norm else nn.Identity()
            for _ in range(2)
        )

    @classmethod
    def check(cls, shape: ModelShape, options: Any) -> Mapping[str, str]:
        """A bound is positive."""
        cap = options.logit_softcap
        return {} if cap >= 0 else {"logit_softcap": f"{cap}: must be positive, or 0 for none"}

    @staticmethod
    def kv_heads(shape: ModelShape, options: Any) -> int:
        """Return the number of key-value heads, a divisor of `n_head`."""
        return shape.n_head

    def init_specs(self) -> Mapping[str, InitSpec]:
        """q, k and v are drawn each on its own; the residual projection is scaled down by depth."""
        blocks = (("q", self.q_width), ("k", self.kv_width), ("v", self.kv_width))
        gains = {f"{name}.weight": InitSpec(value=1.0) for name in ("q_norm", "k_norm")}
        weights = {
            "c_attn.weight": InitSpec(std=0.02, blocks=blocks),
            "c_proj.weight": InitSpec(std=self.proj_std),
        }
        return gains | weights

    def tensor_parallel_plan(self, rank: int, n: int) -> TensorParallelPlan:
        """Compute some heads, and the key-value heads that they read."""
        self.rank_slice(self.n_head, "heads", rank, n)
        self.rank_slice(self.n_kv_head, "key-value heads", rank, n)
        self.n_head, self.n_kv_head = self.n_head // n, self.n_kv_head // n
        self.q_width, self.kv_width = self.q_width // n, self.kv_width // n
        shared = [
            name
            for name, _ in self.named_parameters()
            if name in ("q_norm.weight", "k_norm.weight")
        ]
        return TensorParallelPlan(
            column_parallel=("c_attn",), row_parallel=("c_proj",), replicated=shared
        )

    def forward(
        self,
        x_BTC: Tensor,
        positions_T: Tensor,
        positional: Positional,
        cache: KeyValueCache | None = None,
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
            y_BHTD = self.attend(q_BHTD, k_BGTD, v_BGTD, positions_T, positional)
        y_BTC = self.c_proj(y_BHTD.transpose(1, 2).reshape(B, T, -1))
        return F.dropout(y_BTC, self.dropout, self.training)

    def attend(
        self,
        q_BHTD: Tensor,
        k_BGTD: Tensor,
        v_BGTD: Tensor,
        positions_T: Tensor,
        positional: Positional,
    ) -> Tensor:
        """Attend to all that is not later, with the positional's bias if there is one."""
        bias = positional.causal_bias(positions_T)
        return self.scores(q_BHTD, k_BGTD, v_BGTD, bias, is_causal=bias is None)

    def cache(
        self, batch: int, length: int, device: torch.device, dtype: torch.dtype
    ) -> KeyValueCache:
        """Return a cache of the key-value heads alone; beyond `length` positions the oldest give way."""
        return KeyValueCache((batch, self.n_kv_head, length, self.head_dim), device, dtype)

    def attend_cache(
        self, q_BH1D: Tensor, cache: KeyValueCache, position_1: Tensor, positional: Positional
    ) -> Tensor:
        """Attend from one position to all that the cache holds; the R heads of a group read its keys together."""
        if q_BH1D.shape[2] != 1:
            raise ValueError(
                f"after its prompt a cache takes one position at a time, got {q_BH1D.shape[2]}"
            )
        k_BGLD, v_BGLD = cache.visible()
        bias = positional.bias(position_1, cache.positions()) if positional.has_bias else None
        if bias is not None:
            bias = (
                bias.expand(self.n_head, 1, -1)
                .view(self.n_kv_head, -1, k_BGLD.shape[2])
                .to(q_BH1D.dtype)
            )
        q_BGRD = q_BH1D.reshape(len(q_BH1D), self.n_kv_head, -1, self.head_dim)
        y_BGRD = self.scores(q_BGRD, k_BGLD, v_BGLD, bias)
        return y_BGRD.reshape(q_BH1D.shape)

    def scores(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool = False
    ) -> Tensor:
        """softmax(q k / sqrt(D) + mask) v, a group of query heads for each key-value head where those are fewer."""
        dropout = self.dropout if self.training else 0.0
        return attend(q, k, v, mask, is_causal=is_causal, dropout=dropout, softcap=self.softcap)

    def visible_keys(self, seq_len: int) -> float:
        """Return how many keys a query sees, in the mean over the sequence."""
        return (seq_len + 1) / 2

    def flops_per_token(self, seq_len: int) -> float:
        """Projections, and for each visible key a product with q and one with v: 2 C FLOPs each."""
        weights = 2.0 * (self.c_attn.weight.numel() + self.c_proj.weight.numel())
        return weights + 4.0 * self.q_width * self.visible_keys(seq_len)
