"""Lion: the sign of an interpolated momentum (Chen et al. 2023, algorithm 2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from variants.base import Optimizer
from variants.dtensor import local
from variants.optimizer._options import Beta, LearningRate, WeightDecay
from variants.optimizer._step import (
    ParameterOptimizer,
    State,
    moment,
    rate_groups,
)
from variants.parameters import FP32_BYTES, ParameterInfo, StateBytes, TrainedParameter


@dataclass(frozen=True)
class LionOptions:
    """Learning rate and weight decay, those of `[train]` where they are null, and Lion's betas.

    The authors recommend a rate 3 to 10 times below AdamW's, and a weight decay that is larger by
    the same factor (section 5).
    """

    lr: LearningRate | None = None
    beta1: Beta = 0.9
    beta2: Beta = 0.99
    weight_decay: WeightDecay | None = None


class Lion(Optimizer[LionOptions]):
    """Every element changes by the learning rate."""

    Options = LionOptions
    title = "Lion"
    reads_betas = False

    def make(self, parameters: Sequence[TrainedParameter]) -> torch.optim.Optimizer:
        """Return Lion for all parameters."""
        groups = rate_groups(parameters, self.options, self.defaults)
        return _Lion(groups, parameters, self.options)

    def state_bytes(self, parameter: ParameterInfo) -> StateBytes:
        """Return those of the momentum."""
        return StateBytes(sharded=FP32_BYTES * parameter.size.numel())


class _Lion(ParameterOptimizer[LionOptions]):
    def change(self, parameter: TrainedParameter, grad: Tensor, state: State, lr: float) -> Tensor:
        """Return lr * sign(beta1 * m + (1 - beta1) * g); then m decays with beta2."""
        m = local(moment(state, "momentum", parameter.value))
        g = local(grad)
        direction = m.lerp(g, 1 - self._options.beta1).sign_()
        m.lerp_(g, 1 - self._options.beta2)
        return direction.mul_(lr)
