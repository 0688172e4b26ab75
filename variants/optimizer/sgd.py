"""Stochastic gradient descent with momentum (Sutskever et al. 2013) and decoupled weight decay.

The weight decay is SGDW's (Loshchilov & Hutter 2019, algorithm 1), the momentum PyTorch's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from variants.base import ModelShape, Optimizer
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
class SGDOptions:
    """Learning rate and weight decay, those of `[train]` where they are null, and the momentum."""

    lr: LearningRate | None = None
    momentum: Beta = 0.9
    nesterov: bool = False
    weight_decay: WeightDecay | None = None


class SGD(Optimizer[SGDOptions]):
    """m <- momentum * m + g; theta <- theta - lr * m, or with Nesterov's look-ahead."""

    Options = SGDOptions
    title = "SGD"
    reads_betas = False

    @classmethod
    def check(cls, shape: ModelShape, options: SGDOptions) -> Mapping[str, str]:
        """Nesterov's look-ahead needs a momentum."""
        if options.nesterov and options.momentum == 0:
            return {"nesterov": "true: needs a momentum above 0"}
        return {}

    def make(self, parameters: Sequence[TrainedParameter]) -> torch.optim.Optimizer:
        """Return SGD for all parameters."""
        groups = rate_groups(parameters, self.options, self.defaults)
        return _SGD(groups, parameters, self.options)

    def state_bytes(self, parameter: ParameterInfo) -> StateBytes:
        """Return those of the momentum, if there is any."""
        n_states = 1 if self.options.momentum else 0
        return StateBytes(sharded=n_states * FP32_BYTES * parameter.size.numel())


class _SGD(ParameterOptimizer[SGDOptions]):
    def change(self, parameter: TrainedParameter, grad: Tensor, state: State, lr: float) -> Tensor:
        """Return lr * m, or lr * (g + momentum * m) with Nesterov's look-ahead."""
        momentum = self._options.momentum
        g = local(grad)
        if momentum == 0:
            return g * lr
        m = local(moment(state, "momentum", parameter.value))
        m.mul_(momentum).add_(g)
        direction = g.add(m, alpha=momentum) if self._options.nesterov else m
        return direction * lr
