"""Differential attention: weights are the difference of two softmax maps (Ye et al. 2024, 2.1)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.attention._cache import KeyValueCache
from variants.attention._head_norm import rms_norm
from variants.attention.mha import MultiHead, MultiHeadOptions
from variants.base import InitSpec, ModelShape, Positional
from variants.conversion import ConvertedTensor
from variants.tensor_parallel import TensorParallelPlan

LAMBDAS = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")


@dataclass(frozen=True, kw_only=True)
class DifferentialOptions(MultiHeadOptions):
    """As multi-head attention; `qk_norm` normalizes the two halves of a head together."""


class Differential(MultiHead[DifferentialOptions]):
    """(softmax(q1 k1 / sqrt(d)) - lambda softmax(q2 k2 / sqrt(d))) v, halves of d = D/2 (eq. 1).

    lambda = exp(lambda_q1 . lambda_k1) - exp(lambda_q2 . lambda_k2) + lambda_init, shared by the
    heads of a layer, with lambda_init = 0.8 - 0.6 exp(-0.3 (l - 1)) in layer l = 1, 2, ... (eq. 2).
    Each head is normalized to unit root mean square, times a trained gain that all heads share (as
    in the authors' code), times 1 - lambda_init (eq. 3).

    n_head is the study's, so that all projections have the shapes of multi-head attention and each
    half is half as wide as a head. The paper has half as many heads instead. The stated FLOPs are
    those of eq. 1 and equal those of multi-head attention: two maps of half the width, and one
    product of their difference with v. The kernels execute twice the FLOPs of attention, because
    the fused kernels never store a map: each map is multiplied with v separately.
    """

    Options = DifferentialOptions
    title = "differential"
    supports_static_cache = True
    kernel_overhead = 2.0
    lambda_q1: nn.Parameter
    lambda_k1: nn.Parameter
    lambda_q2: nn.Parameter
    lambda_k2: nn.Parameter

    def __init__(self, shape: ModelShape, options: DifferentialOptions, layer: int) -> None:
        super().__init__(shape, options, layer)
        self.half_dim = shape.head_dim // 2
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * layer)  # `layer` counts from 0
        for name in LAMBDAS:
            self.register_parameter(name, nn.Parameter(torch.zeros(self.half_dim)))
        self.gain = nn.Parameter(torch.ones(shape.head_dim))

    @classmethod
    def check(cls, shape: ModelShape, options: DifferentialOptions) -> Mapping[str, str]:
        """`head_dim` must be even."""
        problems = dict(super().check(shape, options))
        if shape.head_dim % 2:
            problems[""] = (
                f"differential attention halves each head: head_dim = {shape.head_dim} must be even"
            )
        return problems

    @classmethod
    def rotary_dim(cls, shape: ModelShape, options: DifferentialOptions) -> int:
        """Return half of `head_dim`: each half is rotated like a head."""
        return shape.head_dim // 2

    def init_specs(self) -> Mapping[str, InitSpec]:
        """As multi-head attention; the vectors of lambda have a standard deviation of 0.1."""
        vectors = dict.fromkeys(LAMBDAS, InitSpec(std=0.1))
        return {**super().init_specs(), **vectors, "gain": InitSpec(value=1.0)}

    def load_from(
        self, source_tensors: Mapping[str, Tensor], initial_tensors: Mapping[str, Tensor]
    ) -> dict[str, ConvertedTensor]:
        """Load differential attention; reject projections that were trained for one map."""
        if "lambda_q1" not in source_tensors:
            reason = "missing there, and no conversion to differential attention is defined"
            raise ValueError(f"lambda_q1: {reason}")
        return super().load_from(source_tensors, initial_tensors)

    def tensor_parallel_plan(self, rank: int, world_size: int) -> TensorParallelPlan:
        """Compute some heads; all heads share lambda and the gain."""
        plan = super().tensor_parallel_plan(rank, world_size)
        return replace(plan, replicated=(*plan.replicated, *LAMBDAS, "gain"))

    def forward(
        self,
        x_BTC: Tensor,
        positions_T: Tensor,
        positional: Positional,
        cache: KeyValueCache | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Project, attend with both halves, subtract, normalize each head, project back."""
        B, T, _ = x_BTC.shape
        q, k, v = self.c_attn(x_BTC).chunk(3, dim=-1)
        q_BHTD = q.view(B, T, self.n_head, -1).transpose(1, 2)
        k_BHTD = k.view(B, T, self.n_head, -1).transpose(1, 2)
        v_BHTD = v.view(B, T, self.n_head, -1).transpose(1, 2)
        q1, q2 = self.q_norm(q_BHTD).chunk(2, dim=-1)
        k1, k2 = self.k_norm(k_BHTD).chunk(2, dim=-1)
        q1, k1 = positional.rotate(q1, k1, positions_T)
        q2, k2 = positional.rotate(q2, k2, positions_T)
        # A half padded with zeros attends to full keys as to its own half. The factor sqrt(2) turns
        # 1 / sqrt(D) into 1 / sqrt(D/2).
        q1_BHTD = 2**0.5 * F.pad(q1, (0, self.half_dim))
        q2_BHTD = 2**0.5 * F.pad(q2, (self.half_dim, 0))
        k_BHTD = torch.cat((k1, k2), dim=-1)
        decoding = cache is not None and cache.n_seen > 0
        if cache is not None:
            cache.append(k_BHTD, v_BHTD)
        if cache is not None and decoding:
            both = torch.stack((q1_BHTD, q2_BHTD), dim=2).flatten(1, 2)  # one group for each head
            y = self.attend_cache(both, cache, positions_T, positional)
            y1, y2 = y.unflatten(1, (-1, 2)).unbind(2)
        else:
            documents = () if documents_BT is None else (documents_BT,)
            y1 = self.attend(q1_BHTD, k_BHTD, v_BHTD, positions_T, positional, *documents)
            y2 = self.attend(q2_BHTD, k_BHTD, v_BHTD, positions_T, positional, *documents)
        y_BTC = self.c_proj(self.difference(y1, y2).transpose(1, 2).reshape(B, T, -1))
        return F.dropout(y_BTC, self.dropout, self.training)

    def difference(self, y1_BHTD: Tensor, y2_BHTD: Tensor) -> Tensor:
        """Return the normalized heads from the outputs of their two maps."""
        exponent1 = (self.lambda_q1 * self.lambda_k1).sum()
        exponent2 = (self.lambda_q2 * self.lambda_k2).sum()
        y_BHTD = y1_BHTD - (exponent1.exp() - exponent2.exp() + self.lambda_init) * y2_BHTD
        return (1 - self.lambda_init) * rms_norm(y_BHTD, self.gain)
