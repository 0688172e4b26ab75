"""Muon: orthogonalized momentum for the matrices of blocks, AdamW for the rest (Jordan 2024).

https://kellerjordan.github.io/posts/muon/. `torch.optim.Muon` rounds to bf16 on every device,
orthogonalizes q, k and v as one matrix, and does not gather shards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from variants.base import Optimizer, Precision
from variants.optimizer._options import Beta, LearningRate, WeightDecay
from variants.optimizer._shards import gather, gather_bytes, local_part
from variants.optimizer._step import (
    Group,
    ParameterOptimizer,
    State,
    adam_direction,
    decay_groups,
    moment,
    stated_or,
)
from variants.parameters import (
    FP32_BYTES,
    OptimizerDefaults,
    ParameterInfo,
    StateBytes,
    TrainedParameter,
)

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic, which maximize its slope at 0
Scale = Literal["auto", "original", "match_rms_adamw"]


@dataclass(frozen=True)
class MuonOptions:
    """Learning rates of matrices and of the rest, the scale of updates, and Muon's constants.

    With the scale `original` an update has singular values near sqrt(max(1, rows / columns)), and
    0.02 is Jordan's rate. With `match_rms_adamw` (Liu et al. 2025, equation 4) it has the root mean
    square of AdamW's, so that AdamW's rate fits. `auto` is `original` if `lr` is stated, and
    `match_rms_adamw` with the rate of `[train]`. `separate_blocks` orthogonalizes q, k and v, and
    the two halves of a gated MLP, apart. `adamw_lr` and `weight_decay` are those of `[train]` if
    they are null; the betas of AdamW are those of `[train]`.
    """

    lr: LearningRate | None = None
    scale: Scale = "auto"
    momentum: Beta = 0.95
    nesterov: bool = True
    n_iterations: Annotated[int, Field(ge=1, le=100)] = 5
    separate_blocks: bool = True
    adamw_lr: LearningRate | None = None
    weight_decay: WeightDecay | None = None


class Muon(Optimizer[MuonOptions]):
    """The nearest semi-orthogonal matrix to the momentum, by Newton-Schulz iterations."""

    Options = MuonOptions
    title = "Muon"

    def make(self, parameters: Sequence[TrainedParameter]) -> torch.optim.Optimizer:
        """Return one optimizer for both kinds of parameters; the matrices are the first group."""
        lr = stated_or(self.options.lr, self.defaults.lr)
        adamw_lr = stated_or(self.options.adamw_lr, self.defaults.lr)
        weight_decay = stated_or(self.options.weight_decay, self.defaults.weight_decay)
        matrices = [parameter for parameter in parameters if parameter.info.kind == "matrix"]
        others = [parameter for parameter in parameters if parameter.info.kind != "matrix"]
        groups = decay_groups(matrices, lr, weight_decay)
        groups += decay_groups(others, adamw_lr, weight_decay)
        return _Muon(groups, parameters, self.options, self.defaults)

    def state_bytes(self, parameter: ParameterInfo) -> StateBytes:
        """Return those of the momentum of matrices, and of AdamW's two moments."""
        n_states = 1 if parameter.kind == "matrix" else 2
        return StateBytes(sharded=n_states * FP32_BYTES * parameter.size.numel())

    def predicted_bytes_sent(self, parameters: Sequence[TrainedParameter]) -> float:
        """The momentum of each matrix is gathered."""
        return sum(gather_bytes(p) for p in parameters if p.info.kind == "matrix")

    def update_dtype(self, device: torch.device) -> Precision:
        """Return the type of the iterations: bf16 on GPUs."""
        return iteration_precision(device.type)


class _Muon(ParameterOptimizer[MuonOptions]):
    def __init__(
        self,
        groups: list[Group],
        parameters: Sequence[TrainedParameter],
        options: MuonOptions,
        defaults: OptimizerDefaults,
    ) -> None:
        super().__init__(groups, parameters, options)
        self._betas = (defaults.beta1, defaults.beta2)
        self._is_original = options.scale == "original" or (
            options.scale == "auto" and options.lr is not None
        )

    def change(self, parameter: TrainedParameter, grad: Tensor, state: State, lr: float) -> Tensor:
        """Return lr times the scaled orthogonal matrix, or AdamW's change."""
        if parameter.info.kind != "matrix":
            return adam_direction(parameter, grad, state, self._betas).mul_(lr)
        options = self._options
        m = moment(state, "momentum", parameter.value)
        m.lerp_(grad, 1 - options.momentum)
        direction = grad.lerp(m, options.momentum) if options.nesterov else m
        whole = gather(direction, parameter.shard)
        sizes = parameter.info.blocks if options.separate_blocks else ()
        blocks = whole.split(list(sizes)) if sizes else (whole,)
        is_bf16 = iteration_precision(whole.device.type) == "bf16"
        dtype = torch.bfloat16 if is_bf16 else torch.float32
        orthogonal = []
        for block in blocks:
            orthogonal.append(self._scaled(orthogonalize(block, options.n_iterations, dtype)))
        return local_part(torch.cat(orthogonal), parameter) * lr

    def _scaled(self, orthogonal: Tensor) -> Tensor:
        rows, columns = orthogonal.shape[-2:]
        scale: float = 0.2 * max(rows, columns) ** 0.5
        if self._is_original:
            scale = max(1.0, rows / columns) ** 0.5
        return orthogonal * scale


def iteration_precision(device_type: str) -> Precision:
    """Return the type of the Newton-Schulz iterations, which bf16 speeds up on GPUs only."""
    return "bf16" if device_type == "cuda" else "fp32"


def orthogonalize(matrices: Tensor, n_iterations: int, dtype: torch.dtype) -> Tensor:
    """Return matrices with the same singular vectors and singular values of about 0.7 to 1.2.

    Newton-Schulz iterations of a quintic in `dtype`, on matrices in the last two dimensions.
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(dtype)
    is_tall = x.shape[-2] > x.shape[-1]
    if is_tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(n_iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    orthogonal: Tensor = x.mT if is_tall else x
    return orthogonal.to(matrices.dtype)
