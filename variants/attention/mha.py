"""Multi-head attention: every head has its own queries, keys and values (Vaswani et al. 2017, 3.2; GPT-2's own)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.api import Attention, Initial, Positional, Shape, residual_std


class KeyValueCache:
    """Keys and values of the last L positions: (B, G, L, D) each, allocated once, a ring once L have been seen."""

    def __init__(self, size_BGLD: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype) -> None:
        self._keys, self._values = (torch.empty(size_BGLD, device=device, dtype=dtype) for _ in range(2))
        self._length = size_BGLD[2]
        self.n_seen = 0

    @property
    def nbytes(self) -> int:
        """Return the bytes of both."""
        return self._keys.nbytes + self._values.nbytes

    def append(self, k_BGTD: Tensor, v_BGTD: Tensor) -> None:
        """Take T more positions, of which the last L count; each lies at its position modulo L."""
        self.n_seen += k_BGTD.shape[2]
        first = max(self.n_seen - k_BGTD.shape[2], self.n_seen - self._length)
        while first < self.n_seen:  # once, and once more where it reaches over the ring's end
            slot, back = first % self._length, self.n_seen - first
            n = min(back, self._length - slot)
            for ring, new in ((self._keys, k_BGTD), (self._values, v_BGTD)):
                ring[:, :, slot : slot + n] = new[:, :, new.shape[2] - back :][:, :, :n]
            first += n

    def visible(self) -> tuple[Tensor, Tensor]:
        """Return the keys and values that are there, (B, G, min(n_seen, L), D), in the ring's order."""
        n = min(self.n_seen, self._length)
        return self._keys[:, :, :n], self._values[:, :, :n]

    def positions(self) -> Tensor:
        """Return the positions of those, (min(n_seen, L),)."""
        slot = torch.arange(min(self.n_seen, self._length), device=self._keys.device)
        return self.n_seen - 1 - (self.n_seen - 1 - slot) % self._length


class MultiHead(Attention):
    """One projection `c_attn` to q, k and v, scaled dot products, one projection `c_proj` back.

    Variants that differ in the number of key-value heads or in what a query sees derive from this class.
    """

    def __init__(self, shape: Shape, options: Any, layer: int) -> None:
        super().__init__(shape, options, layer)
        self.n_head, self.n_kv_head, self.head_dim = (
            shape.n_head,
            self.kv_heads(shape, options),
            shape.head_dim,
        )
        self.q_width, self.kv_width = shape.n_embd, self.n_kv_head * shape.head_dim
        self.c_attn = nn.Linear(shape.n_embd, self.q_width + 2 * self.kv_width)
        self.c_proj = nn.Linear(shape.n_embd, shape.n_embd)
        self.dropout, self.proj_std = shape.dropout, residual_std(shape)

    @staticmethod
    def kv_heads(shape: Shape, options: Any) -> int:
        """Return the number of key-value heads, a divisor of `n_head`."""
        return shape.n_head

    def initial(self) -> Mapping[str, Initial]:
        """q, k and v are drawn each on its own; the residual projection is scaled down by depth."""
        blocks = (("q", self.q_width), ("k", self.kv_width), ("v", self.kv_width))
        return {
            "c_attn.weight": Initial(std=0.02, blocks=blocks),
            "c_proj.weight": Initial(std=self.proj_std),
        }

    def forward(
        self, x_BTC: Tensor, positions_T: Tensor, positional: Positional, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Project, attend, project back."""
        B, T, C = x_BTC.shape
        q, k, v = self.c_attn(x_BTC).split((self.q_width, self.kv_width, self.kv_width), dim=-1)
        q_BHTD = q.view(B, T, self.n_head, self.head_dim).transpose(1, 2)
        k_BGTD = k.view(B, T, self.n_kv_head, self.head_dim).transpose(1, 2)
        v_BGTD = v.view(B, T, self.n_kv_head, self.head_dim).transpose(1, 2)
        q_BHTD, k_BGTD = positional.rotate(q_BHTD, k_BGTD, positions_T)
        decoding = cache is not None and cache.n_seen > 0
        if cache is not None:
            cache.append(k_BGTD, v_BGTD)
        if cache is not None and decoding:
            y_BHTD = self.attend_cache(q_BHTD, cache, positions_T, positional)
        else:
            y_BHTD = self.attend(q_BHTD, k_BGTD, v_BGTD, positions_T, positional)
        y_BTC = self.c_proj(y_BHTD.transpose(1, 2).reshape(B, T, C))
        return F.dropout(y_BTC, self.dropout, self.training)

    def attend(
        self, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, positions_T: Tensor, positional: Positional
    ) -> Tensor:
        """Attend to all that is not later, with the positional's bias if there is one."""
        bias = positional.bias(positions_T, positions_T)
        if bias is not None:
            bias = bias.masked_fill(positions_T[:, None] < positions_T, -torch.inf)
        return self.scores(q_BHTD, k_BGTD, v_BGTD, bias, is_causal=bias is None)

    def cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> KeyValueCache:
        """Return a cache of the key-value heads alone; beyond `length` positions the oldest give way."""
        return KeyValueCache((batch, self.n_kv_head, length, self.head_dim), device, dtype)

    def attend_cache(self, q_BH1D: Tensor, cache: KeyValueCache, position_1: Tensor, positional: Positional) -> Tensor:
        """Attend from one position to all that the cache holds; the R heads of a group read its keys together."""
        if q_BH1D.shape[2] != 1:
            raise ValueError(f"after its prompt a cache takes one position at a time, got {q_BH1D.shape[2]}")
        k_BGLD, v_BGLD = cache.visible()
        bias = positional.bias(position_1, cache.positions()) if positional.uses_bias else None
        if bias is not None:
            bias = bias.expand(self.n_head, 1, -1).view(self.n_kv_head, -1, k_BGLD.shape[2]).to(q_BH1D.dtype)
        q_BGRD = q_BH1D.reshape(len(q_BH1D), self.n_kv_head, -1, self.head_dim)
        y_BGRD = F.scaled_dot_product_attention(q_BGRD, k_BGLD, v_BGLD, attn_mask=bias)
        return y_BGRD.reshape(q_BH1D.shape)

    def scores(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool = False) -> Tensor:
        """softmax(q k / sqrt(D) + mask) v, a group of H / G query heads for each key-value head."""
        grouped = self.n_kv_head != self.n_head
        if grouped and q.is_cuda and q.dtype == torch.float32:
            # PyTorch's fused fp32 kernels on CUDA take no groups and would leave this to the slow math kernel.
            k, v = (x.repeat_interleave(self.n_head // self.n_kv_head, dim=-3) for x in (k, v))
            grouped = False
        dropout = self.dropout if self.training else 0.0
        if mask is not None and mask.is_floating_point():
            mask = mask.to(q.dtype)
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, enable_gqa=grouped
        )

    def visible_keys(self, seq_len: int) -> float:
        """Return how many keys a query sees, in the mean over the sequence."""
        return (seq_len + 1) / 2

    def flops_per_token(self, seq_len: int) -> float:
        """Projections, and for each visible key a product with q and one with v: 2 C FLOPs each."""
        weights = 2.0 * (self.c_attn.weight.numel() + self.c_proj.weight.numel())
        return weights + 4.0 * self.q_width * self.visible_keys(seq_len)
