"""Multi-head latent attention: all heads' keys and values come from one small latent (DeepSeek-AI 2024, 2.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.attention._cache import Ring
from variants.attention._head_norm import EPSILON
from variants.attention._kernels import attend
from variants.base import Attention, InitSpec, ModelShape, Positional, residual_std
from variants.conversion import ConvertedTensor
from variants.linear import Linear
from variants.tensor_parallel import TensorParallelPlan
from variants.validation import at_least_one


class LatentAttention(Attention):
    """A latent c of each position, and of it every head's key and value (eq. 9 to 11); so for queries (12, 13).

    Positions turn R further dimensions, of each head's query and of one key that all heads share (14, 15); they stand
    beside the D others (16, 17), and scores are divided by sqrt(D + R) (18). Where a positional turns nothing they are
    ordinary dimensions. A cache holds c and the shared key alone: decoding takes the matrix that makes keys of c to the
    query, and the one that makes values to the output (2.1.2), so that neither is made again for what lies behind.

    Latents have unit root mean square, times a trained gain (3.1.2; the scaling factors named there are not in the
    authors' code, nor here). As with them there are no biases, save for that of GPT-2's projection back.

    Legend, beside that of `variants.base`: L `kv_rank`, R `rope_dim`, K = L + R, S positions in a cache.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Parameters: the widths of the latents (queries have none at 0), and of the part that turns.

        Left out, kv_rank is 4 * head_dim and rope_dim is head_dim / 2, as in the paper (3.1.2).
        """

        kv_rank: int | None = None
        q_rank: int = 0
        rope_dim: int | None = None

    def __init__(self, shape: ModelShape, options: Any, layer: int) -> None:
        super().__init__(shape, options, layer)
        C, self.n_head, self.head_dim, self.dropout = (
            shape.n_embd,
            shape.n_head,
            shape.head_dim,
            shape.dropout,
        )
        self.kv_rank = 4 * shape.head_dim if options.kv_rank is None else options.kv_rank
        self.rope_dim = self.rotary_dim(shape, options)
        self.q_rank, self.q_widths = options.q_rank, (C, shape.n_head * self.rope_dim)
        self.widths = (self.q_rank or sum(self.q_widths), self.kv_rank, self.rope_dim)
        self.c_attn = Linear(C, sum(self.widths), bias=False)
        if self.q_rank:
            self.q_gain = nn.Parameter(torch.ones(self.q_rank))
            self.q_up = Linear(self.q_rank, sum(self.q_widths), bias=False)
        self.kv_gain, self.kv_up = (
            nn.Parameter(torch.ones(self.kv_rank)),
            Linear(self.kv_rank, 2 * C, bias=False),
        )
        self.c_proj, self.proj_std = Linear(C, C), residual_std(shape)

    @classmethod
    def check(cls, shape: ModelShape, options: Any) -> Mapping[str, str]:
        """Latents have a width, and dimensions turn in pairs."""
        problems = {} if options.kv_rank is None else at_least_one("kv_rank", options.kv_rank)
        if options.q_rank < 0:
            problems["q_rank"] = (
                f"{options.q_rank}: must be at least 1, or 0 for queries without a latent"
            )
        if (rope_dim := cls.rotary_dim(shape, options)) < 2 or rope_dim % 2:
            problems["rope_dim"] = (
                f"{rope_dim}: must be even and at least 2 (left out, it is head_dim / 2)"
            )
        return problems

    @classmethod
    def rotary_dim(cls, shape: ModelShape, options: Any) -> int:
        """Return the width of the part that turns."""
        return shape.head_dim // 2 if options.rope_dim is None else int(options.rope_dim)

    def init_specs(self) -> Mapping[str, InitSpec]:
        """Every block is drawn on its own, so that queries without a latent start as multi-head attention's."""
        (C, q_rope), (first, kv, k_rope) = self.q_widths, self.widths
        queries = (("q", C), ("q_rope", q_rope))
        down = (
            *((("q_latent", first),) if self.q_rank else queries),
            ("kv_latent", kv),
            ("k_rope", k_rope),
        )
        blocks = {"c_attn": down, "q_up": queries, "kv_up": (("k", C), ("v", C))}
        weights = {
            f"{name}.weight": InitSpec(std=0.02, blocks=rows) for name, rows in blocks.items()
        }
        gains = dict.fromkeys(("q_gain", "kv_gain"), InitSpec(value=1.0))
        return {**gains, **weights, "c_proj.weight": InitSpec(std=self.proj_std)}

    def load_from(
        self, theirs: Mapping[str, Tensor], fresh: Mapping[str, Tensor]
    ) -> dict[str, ConvertedTensor]:
        """Load latent attention of the same widths; what any other learned is in other tensors."""
        if differ := theirs.keys() ^ fresh.keys():
            name, side = min(differ), "missing" if min(differ) in fresh else "only"
            raise ValueError(
                f"{name}: {side} there, and no conversion to latent attention is defined"
            )
        return super().load_from(theirs, fresh)

    def tensor_parallel_plan(self, rank: int, n: int) -> TensorParallelPlan:
        """Compute some heads, of latents that every process makes for itself."""
        if not self.q_rank:
            raise ValueError(
                "without q_rank, one matrix holds the queries of each head and the latents that all read"
            )
        self.rank_slice(self.n_head, "heads", rank, n)
        self.n_head, self.q_widths = (
            self.n_head // n,
            (self.q_widths[0] // n, self.q_widths[1] // n),
        )
        return TensorParallelPlan(
            ("q_up", "kv_up"), ("c_proj",), replicated=("c_attn.weight", "q_gain", "kv_gain")
        )

    def forward(
        self, x_BTC: Tensor, positions_T: Tensor, positional: Positional, cache: Ring | None = None
    ) -> Tensor:
        """Project to queries and to what is kept of each position, attend, project back."""
        B, T, _ = x_BTC.shape
        q, c, k = self.c_attn(x_BTC).split(self.widths, dim=-1)
        if self.q_rank:
            q = self.q_up(F.rms_norm(q, (self.q_rank,), self.q_gain.to(q.dtype), EPSILON))
        q_BHTD, q_BHTR = (
            part.view(B, T, self.n_head, -1).transpose(1, 2)
            for part in q.split(self.q_widths, dim=-1)
        )
        q_BHTR, k_B1TR = positional.rotate(q_BHTR, k[:, None], positions_T)
        c_B1TL = F.rms_norm(c, (self.kv_rank,), self.kv_gain.to(c.dtype), EPSILON)[:, None]
        decoding = cache is not None and cache.n_seen > 0
        if cache is not None:
            cache.append(torch.cat((c_B1TL, k_B1TR), dim=-1))
        if cache is not None and decoding:
            y_BHTD = self.attend_cache(
                q_BHTD, q_BHTR, positional.bias(positions_T, cache.positions()), cache
            )
        else:
            y_BHTD = self.attend(
                q_BHTD, q_BHTR, c_B1TL, k_B1TR, positional.causal_bias(positions_T)
            )
        return F.dropout(
            self.c_proj(y_BHTD.transpose(1, 2).reshape(B, T, -1)), self.dropout, self.training
        )

    def attend(
        self, q_BHTD: Tensor, q_BHTR: Tensor, c_B1TL: Tensor, k_B1TR: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Make the heads' keys and values, and attend to them."""
        k_and_v = self.kv_up(c_B1TL[:, 0]).chunk(2, dim=-1)
        k_BHTD, v_BHTD = (part.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for part in k_and_v)
        q, k = (
            torch.cat((q_BHTD, q_BHTR), dim=-1),
            torch.cat((k_BHTD, k_B1TR.expand_as(q_BHTR)), dim=-1),
        )
        v = F.pad(v_BHTD, (0, self.rope_dim))  # PyTorch's fused kernels want values as wide as keys
        return self.scores(q, k, v, bias, is_causal=bias is None)[..., : self.head_dim]

    def cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> Ring:
        """Return a cache of latents, each beside the shared key's turned part: L + R numbers for a position."""
        return Ring(((batch, 1, length, self.kv_rank + self.rope_dim),), device, dtype)

    def attend_cache(
        self, q_BH1D: Tensor, q_BH1R: Tensor, bias: Tensor | None, cache: Ring
    ) -> Tensor:
        """Attend from one position to what is kept: heads are queries of one head, whose keys are its values too."""
        if q_BH1D.shape[2] != 1:
            raise ValueError(
                f"after its prompt a cache takes one position at a time, got {q_BH1D.shape[2]}"
            )
        to_k_HDL, to_v_HDL = self.kv_up.weight.view(2, self.n_head, self.head_dim, self.kv_rank)
        q_B1HK = torch.cat((q_BH1D @ to_k_HDL, q_BH1R), dim=-1).transpose(1, 2)
        (kept_B1SK,) = cache.visible()
        y_B1HK = self.scores(q_B1HK, kept_B1SK, kept_B1SK, None if bias is None else bias[:, 0])
        return (
            y_B1HK[..., : self.kv_rank].transpose(1, 2) @ to_v_HDL.mT
        )  # the turned part is no value

    def scores(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool = False
    ) -> Tensor:
        """softmax(q k / sqrt(D + R) + mask) v."""
        dropout, scale = (
            self.dropout if self.training else 0.0,
            (self.head_dim + self.rope_dim) ** -0.5,
        )
        return attend(q, k, v, mask, is_causal=is_causal, dropout=dropout, scale=scale)

    def flops_per_token(self, seq_len: int) -> float:
        """Projections, and for each visible key and head a product of D + R with q and one of D with the value.

        In training and on a prompt. Decoding multiplies L + R and L for each key instead, and makes no keys or values.
        """
        weights = sum(
            layer.weight.numel() for layer in self.modules() if isinstance(layer, nn.Linear)
        )
        return 2.0 * weights + (seq_len + 1) * self.n_head * (2 * self.head_dim + self.rope_dim)
