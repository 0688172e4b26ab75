"""Differential attention: a head's weights are the difference of two softmax maps (Ye et al. 2024, section 2.1)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.attention._cache import KeyValueCache
from variants.attention._head_norm import EPSILON
from variants.attention.mha import MultiHead
from variants.base import InitSpec, ModelShape, Positional
from variants.conversion import ConvertedTensor
from variants.tensor_parallel import TensorParallelPlan


class Differential(MultiHead):
    """(softmax(q1 k1 / sqrt(d)) - lambda softmax(q2 k2 / sqrt(d))) v with the two halves of q and k, d = D/2 (eq. 1).

    lambda = exp(lambda_q1 . lambda_k1) - exp(lambda_q2 . lambda_k2) + lambda_init, one for all heads of a layer, with
    lambda_init = 0.8 - 0.6 exp(-0.3 (l - 1)) in layer l = 1, 2, ... (eq. 2). Each head is then given unit root mean
    square, times a trained gain that all heads share (as in the authors' code), times 1 - lambda_init (eq. 3).

    Here n_head is the study's, so that all projections are multi-head attention's, and halves are half as wide as its
    heads. The paper keeps the halves as wide as the baseline's heads and has half as many heads. FLOPs are stated as
    eq. 1 needs them, which is what multi-head attention needs: two maps of half the width, and one product of their
    difference with v. Executed are twice those of attention, for no map is ever held: each meets v by itself.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(MultiHead.Options):
        """Parameters: as multi-head attention's; `qk_norm` takes the two halves of a head together."""

    def __init__(self, shape: ModelShape, options: Any, layer: int) -> None:
        super().__init__(shape, options, layer)
        self.half_dim = shape.head_dim // 2
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * layer)  # layers are counted from 0 here
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
            nn.Parameter(torch.zeros(self.half_dim)) for _ in range(4)
        )
        self.gain = nn.Parameter(torch.ones(shape.head_dim))

    @classmethod
    def check(cls, shape: ModelShape, options: Any) -> Mapping[str, str]:
        """A head has two halves."""
        odd = {
            "": f"differential attention halves each head: head_dim = {shape.head_dim} must be even"
        }
        return {**super().check(shape, options), **(odd if shape.head_dim % 2 else {})}

    @classmethod
    def rotary_dim(cls, shape: ModelShape, options: Any) -> int:
        """Each half is rotated as a head of its own."""
        return shape.head_dim // 2

    def init_specs(self) -> Mapping[str, InitSpec]:
        """As multi-head attention; the vectors of lambda begin with 0.1 (the authors' code)."""
        vectors = {f"lambda_{name}": InitSpec(std=0.1) for name in ("q1", "k1", "q2", "k2")}
        return {**super().init_specs(), **vectors, "gain": InitSpec(value=1.0)}

    def load_from(
        self, theirs: Mapping[str, Tensor], fresh: Mapping[str, Tensor]
    ) -> dict[str, ConvertedTensor]:
        """Load differential attention; that of another kind has the same projections, trained for one map."""
        if "lambda_q1" not in theirs:
            raise ValueError(
                "lambda_q1: missing there, and no conversion to differential attention is defined"
            )
        return super().load_from(theirs, fresh)

    def tensor_parallel_plan(self, rank: int, n: int) -> TensorParallelPlan:
        """All heads share lambda and the gain."""
        division = super().tensor_parallel_plan(rank, n)
        of_all = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2", "gain")
        return replace(division, replicated=(*division.replicated, *of_all))

    def forward(
        self,
        x_BTC: Tensor,
        positions_T: Tensor,
        positional: Positional,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Project, attend with both halves, subtract, normalise each head, project back."""
        B, T, _ = x_BTC.shape
        q_BHTD, k_BHTD, v_BHTD = (
            x.view(B, T, self.n_head, -1).transpose(1, 2)
            for x in self.c_attn(x_BTC).chunk(3, dim=-1)
        )
        q1, q2 = self.q_norm(q_BHTD).chunk(2, dim=-1)
        k1, k2 = self.k_norm(k_BHTD).chunk(2, dim=-1)
        (q1, k1), (q2, k2) = (positional.rotate(q, k, positions_T) for q, k in ((q1, k1), (q2, k2)))
        # Beside zeros, a half meets whole keys as it would meet theirs; sqrt(2) makes 1 / sqrt(D) into 1 / sqrt(D/2).
        queries = [2**0.5 * F.pad(q1, (0, self.half_dim)), 2**0.5 * F.pad(q2, (self.half_dim, 0))]
        k_BHTD = torch.cat((k1, k2), dim=-1)
        decoding = cache is not None and cache.n_seen > 0
        if cache is not None:
            cache.append(k_BHTD, v_BHTD)
        if cache is not None and decoding:
            both = torch.stack(queries, dim=2).flatten(1, 2)  # one group for each head
            y1, y2 = (
                self.attend_cache(both, cache, positions_T, positional)
                .unflatten(1, (-1, 2))
                .unbind(2)
            )
        else:
            y1, y2 = (self.attend(q, k_BHTD, v_BHTD, positions_T, positional) for q in queries)
        y_BTC = self.c_proj(self.difference(y1, y2).transpose(1, 2).reshape(B, T, -1))
        return F.dropout(y_BTC, self.dropout, self.training)

    def difference(self, y1_BHTD: Tensor, y2_BHTD: Tensor) -> Tensor:
        """Return the normalised heads from what their two maps make of the values."""
        one, two = (self.lambda_q1 * self.lambda_k1).sum(), (self.lambda_q2 * self.lambda_k2).sum()
        y_BHTD = y1_BHTD - (one.exp() - two.exp() + self.lambda_init) * y2_BHTD
        normed_BHTD = F.rms_norm(y_BHTD, self.gain.shape, self.gain.to(y_BHTD.dtype), EPSILON)
        return (1 - self.lambda_init) * normed_BHTD
