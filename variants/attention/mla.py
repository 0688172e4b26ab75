"""Multi-head latent attention: k and v of all heads come from a latent (DeepSeek-AI 2024, 2.1)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.attention._cache import Ring
from variants.attention._flex_tiles import attend_tiles, can_tile
from variants.attention._head_norm import rms_norm
from variants.attention._kernels import attend
from variants.attention._window import Window
from variants.base import Attention, InitSpec, ModelShape, Positional, residual_std
from variants.conversion import ConvertedTensor
from variants.linear import Linear, linear_flops
from variants.tensor_parallel import TensorParallelPlan
from variants.validation import Width, at_least_one


@dataclass(frozen=True, kw_only=True)
class LatentOptions:
    """The widths of the latents (`q_rank` = 0: no latent for queries) and of the rotated part.

    By default, kv_rank is 4 * head_dim and rope_dim is head_dim / 2, as in the paper (3.1.2).
    """

    kv_rank: Width | None = None
    q_rank: Width = 0
    rope_dim: Width | None = None


class LatentAttention(Attention[LatentOptions]):
    """A latent c of each position, from which all keys and values are computed (eq. 9 to 13).

    A positional rotates R further dimensions of each query, and one key of R dimensions that all
    heads share (14, 15). They are concatenated with the D others (16, 17), and scores are divided
    by sqrt(D + R) (18). Without a rotation they are ordinary dimensions. YaRN sharpens the whole
    score, as in the authors' code, not only its rotated part. A cache holds only c and
    the shared key: decoding applies the key projection to the query and the value projection to the
    output (2.1.2), so that cached positions are never projected again.

    Latents have unit root mean square, times a trained gain (3.1.2; the scaling factors mentioned
    there are not in the authors' code and not here). As in their code, there are no biases, except
    that of GPT-2's output projection.

    Further shapes: L `kv_rank`, R `rope_dim`, K = L + R, S positions in a cache.
    """

    Options = LatentOptions
    title = "MLA"
    supports_documents = True
    supports_static_cache = True

    def __init__(self, shape: ModelShape, options: LatentOptions, layer: int) -> None:
        super().__init__(shape, options, layer)
        C = shape.n_embd
        self.n_head = shape.n_head
        self.head_dim = shape.head_dim
        self.dropout = shape.dropout
        self.kv_rank = 4 * shape.head_dim if options.kv_rank is None else options.kv_rank
        self.rope_dim = self.rotary_dim(shape, options)
        padded = 2 * (self.head_dim + self.rope_dim)  # values are as wide as keys
        self.kernel_overhead = padded / (2 * self.head_dim + self.rope_dim)
        self.q_rank = options.q_rank
        self.q_widths = (C, shape.n_head * self.rope_dim)
        self.widths = (self.q_rank or sum(self.q_widths), self.kv_rank, self.rope_dim)
        self.c_attn = Linear(C, sum(self.widths), bias=False)
        if self.q_rank:
            self.q_gain = nn.Parameter(torch.ones(self.q_rank))
            self.q_up = Linear(self.q_rank, sum(self.q_widths), bias=False)
        self.kv_gain = nn.Parameter(torch.ones(self.kv_rank))
        self.kv_up = Linear(self.kv_rank, 2 * C, bias=False)
        self.c_proj = Linear(C, C, shape.bias)
        self.init_std = shape.init_std
        self.proj_std = residual_std(shape)

    @classmethod
    def check(cls, shape: ModelShape, options: LatentOptions) -> Mapping[str, str]:
        """Ranks must be positive, and the rotated width even."""
        problems = {} if options.kv_rank is None else at_least_one("kv_rank", options.kv_rank)
        if options.q_rank < 0:
            reason = "must be at least 1, or 0 for queries without a latent"
            problems["q_rank"] = f"{options.q_rank}: {reason}"
        rope_dim = cls.rotary_dim(shape, options)
        if rope_dim < 2 or rope_dim % 2:
            reason = "must be even and at least 2 (left out, it is head_dim / 2)"
            problems["rope_dim"] = f"{rope_dim}: {reason}"
        return problems

    @classmethod
    def rotary_dim(cls, shape: ModelShape, options: LatentOptions) -> int:
        """Return the width of the rotated part."""
        return shape.head_dim // 2 if options.rope_dim is None else options.rope_dim

    def init_specs(self) -> Mapping[str, InitSpec]:
        """Initialize each block independently, so that plain queries start as those of `mha`."""
        queries = (("q", self.q_widths[0]), ("q_rope", self.q_widths[1]))
        first = (("q_latent", self.q_rank),) if self.q_rank else queries
        down = (*first, ("kv_latent", self.kv_rank), ("k_rope", self.rope_dim))
        k_and_v = (("k", self.q_widths[0]), ("v", self.q_widths[0]))
        return {
            "q_gain": InitSpec(value=1.0),
            "kv_gain": InitSpec(value=1.0),
            "c_attn.weight": InitSpec(std=self.init_std, blocks=down),
            "q_up.weight": InitSpec(std=self.init_std, blocks=queries),
            "kv_up.weight": InitSpec(std=self.init_std, blocks=k_and_v),
            "c_proj.weight": InitSpec(std=self.proj_std),
        }

    def load_from(
        self, source_tensors: Mapping[str, Tensor], initial_tensors: Mapping[str, Tensor]
    ) -> dict[str, ConvertedTensor]:
        """Load latent attention of the same widths; reject other kinds of attention."""
        if different := source_tensors.keys() ^ initial_tensors.keys():
            name = min(different)
            where = "missing there" if name in initial_tensors else "only there"
            raise ValueError(f"{name}: {where}, and no conversion to latent attention is defined")
        return super().load_from(source_tensors, initial_tensors)

    def tensor_parallel_plan(self, rank: int, world_size: int) -> TensorParallelPlan:
        """Compute some heads from latents that each process computes in full."""
        if not self.q_rank:
            raise ValueError(
                "without q_rank, one matrix holds the queries of each head and the latents, "
                "which all heads share"
            )
        self.rank_slice(self.n_head, "heads", rank, world_size)
        self.n_head //= world_size
        self.q_widths = (self.q_widths[0] // world_size, self.q_widths[1] // world_size)
        return TensorParallelPlan(
            column_parallel=("q_up", "kv_up"),
            row_parallel=("c_proj",),
            replicated=("c_attn.weight", "q_gain", "kv_gain"),
        )

    def forward(
        self,
        x_BTC: Tensor,
        positions_T: Tensor,
        positional: Positional,
        cache: Ring | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Project to queries and latents, attend, project back."""
        B, T, _ = x_BTC.shape
        q, c, k = self.c_attn(x_BTC).split(self.widths, dim=-1)
        if self.q_rank:
            q = self.q_up(rms_norm(q, self.q_gain))
        q_plain, q_rotated = q.split(self.q_widths, dim=-1)
        q_BHTD = q_plain.view(B, T, self.n_head, -1).transpose(1, 2)
        q_BHTR = q_rotated.view(B, T, self.n_head, -1).transpose(1, 2)
        q_BHTR, k_B1TR = positional.rotate(q_BHTR, k[:, None], positions_T)
        if positional.score_factor != 1:
            q_BHTD = q_BHTD * positional.score_factor
        c_B1TL = rms_norm(c, self.kv_gain)[:, None]
        decoding = cache is not None and cache.n_seen > 0
        if cache is not None:
            cache.append(torch.cat((c_B1TL, k_B1TR), dim=-1))
        if cache is not None and decoding:
            bias = cache.bias(positional, positions_T)
            y_BHTD = self.attend_cache(q_BHTD, q_BHTR, bias, cache)
        else:
            y_BHTD = self.attend(
                q_BHTD, q_BHTR, c_B1TL, k_B1TR, positions_T, positional, documents_BT
            )
        y_BTC = self.c_proj(y_BHTD.transpose(1, 2).reshape(B, T, -1))
        return F.dropout(y_BTC, self.dropout, self.training)

    def attend(
        self,
        q_BHTD: Tensor,
        q_BHTR: Tensor,
        c_B1TL: Tensor,
        k_B1TR: Tensor,
        positions_T: Tensor,
        positional: Positional,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Compute the keys and values of the heads, and attend to them within each document.

        Compiled for CUDA, flex_attention skips the tiles between documents.
        """
        k, v = self.kv_up(c_B1TL[:, 0]).chunk(2, dim=-1)
        k_BHTD = k.unflatten(-1, (self.n_head, -1)).transpose(1, 2)
        v_BHTD = v.unflatten(-1, (self.n_head, -1)).transpose(1, 2)
        queries = torch.cat((q_BHTD, q_BHTR), dim=-1)
        keys = torch.cat((k_BHTD, k_B1TR.expand_as(q_BHTR)), dim=-1)
        everything = Window(queries.shape[2])
        if documents_BT is not None and can_tile(
            everything,
            queries.device.type,
            v_BHTD.dtype,
            self.head_dim,
            compiling=torch.compiler.is_compiling(),
            plain_scores=not (positional.has_bias or (self.training and self.dropout > 0)),
            documents=True,
        ):
            return attend_tiles(everything, queries, keys, v_BHTD, documents_BT)
        bias = positional.causal_bias(positions_T, documents_BT)
        values = F.pad(v_BHTD, (0, self.rope_dim))  # fused kernels need values as wide as keys
        y = self.scores(queries, keys, values, bias, is_causal=bias is None)
        return y[..., : self.head_dim]

    def cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> Ring:
        """Return a cache of latents and rotated shared keys: L + R numbers for each position."""
        return Ring(((batch, 1, length, self.kv_rank + self.rope_dim),), device, dtype)

    def attend_cache(
        self, q_BH1D: Tensor, q_BH1R: Tensor, bias: Tensor | None, cache: Ring
    ) -> Tensor:
        """Attend from one position to the cache, whose entries are both keys and values."""
        to_k_HDL, to_v_HDL = self.kv_up.weight.view(2, self.n_head, self.head_dim, self.kv_rank)
        q_B1HK = torch.cat((q_BH1D @ to_k_HDL, q_BH1R), dim=-1).transpose(1, 2)
        (cached_B1SK,) = cache.visible()
        mask = None if bias is None else bias[:, 0]
        y_B1HK = self.scores(q_B1HK, cached_B1SK, cached_B1SK, mask)
        y_BH1L = y_B1HK[..., : self.kv_rank].transpose(1, 2)  # without the rotated key
        y_BH1D: Tensor = y_BH1L @ to_v_HDL.mT
        return y_BH1D

    def scores(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool = False
    ) -> Tensor:
        """Return softmax(q k / sqrt(D + R) + mask) v."""
        dropout = self.dropout if self.training else 0.0
        scale = (self.head_dim + self.rope_dim) ** -0.5
        return attend(q, k, v, mask, is_causal=is_causal, dropout=dropout, scale=scale)

    def flops_per_token(self, seq_len: int) -> float:
        """Count the projections, and for each visible key and head products of width D + R and D.

        This holds for training and prompts. Decoding multiplies L + R and L for each key instead,
        and projects no keys or values.
        """
        per_key = self.n_head * (2 * self.head_dim + self.rope_dim)
        return linear_flops(self) + (seq_len + 1) * per_key
