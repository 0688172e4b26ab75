"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from variants.base import Optimizer
from variants.optimizer._options import Beta, LearningRate, WeightDecay
from variants.optimizer._step import rate_groups, stated_or
from variants.parameters import FP32_BYTES, ParameterInfo, StateBytes, TrainedParameter


@dataclass(frozen=True)
class AdamWOptions:
    """Learning rate, betas and weight decay; those of `[train]` where they are null."""

    lr: LearningRate | None = None
    beta1: Beta | None = None
    beta2: Beta | None = None
    weight_decay: WeightDecay | None = None


class AdamW(Optimizer[AdamWOptions]):
    """`torch.optim.AdamW`, fused."""

    Options = AdamWOptions
    title = "AdamW"

    def make(self, parameters: Sequence[TrainedParameter]) -> torch.optim.Optimizer:
        """Return fused AdamW."""
        options = self.options
        defaults = self.defaults
        betas = (
            stated_or(options.beta1, defaults.beta1),
            stated_or(options.beta2, defaults.beta2),
        )
        groups = rate_groups(parameters, options, defaults)
        return torch.optim.AdamW(groups, betas=betas, fused=True)  # type: ignore[arg-type]

    def state_bytes(self, parameter: ParameterInfo) -> StateBytes:
        """Return those of the running means of the gradient and of its square."""
        return StateBytes(sharded=2 * FP32_BYTES * parameter.size.numel())
