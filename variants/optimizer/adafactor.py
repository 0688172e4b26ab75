"""Adafactor: second moments of matrices as an outer product (Shazeer & Stern 2018, algorithm 4).

Details are those of `torch.optim.Adafactor`: means where the paper has sums, epsilon 1 in the
denominators, and decoupled weight decay. The statistics are those of whole matrices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from variants.base import Optimizer
from variants.dtensor import local
from variants.optimizer._options import LearningRate, WeightDecay
from variants.optimizer._shards import gather, gather_bytes, local_part
from variants.optimizer._step import (
    Group,
    ParameterOptimizer,
    State,
    count_step,
    moment,
    rate_groups,
)
from variants.parameters import FP32_BYTES, ParameterInfo, StateBytes, TrainedParameter

EPSILON_1 = torch.finfo(torch.float32).eps
EPSILON_2 = 1e-3  # least scale of a parameter
Scale = Literal["auto", "relative", "absolute"]


@dataclass(frozen=True)
class AdafactorOptions:
    """Learning rate, its scale, and the constants of the paper's section 9.

    With the scale `relative` (section 8) the rate is multiplied by the root mean square of the
    parameter, and 0.01 is the paper's; with `absolute` it is in the units of AdamW's. `auto` is
    `relative` if `lr` is stated, and `absolute` with the rate of `[train]`. `clip` is the largest
    root mean square of an update (section 6), -`decay` the exponent of 1 - beta2 (section 7.2).
    `weight_decay` is that of `[train]` if it is null.
    """

    lr: LearningRate | None = None
    scale: Scale = "auto"
    clip: Annotated[float, Field(ge=1)] = 1.0
    decay: Annotated[float, Field(ge=0, le=10)] = 0.8
    weight_decay: WeightDecay | None = None


class Adafactor(Optimizer[AdafactorOptions]):
    """Adafactor without momentum. The rate is at most 1 / sqrt(step)."""

    Options = AdafactorOptions
    title = "Adafactor"
    reads_betas = False

    def make(self, parameters: Sequence[TrainedParameter]) -> torch.optim.Optimizer:
        """Return Adafactor for all parameters."""
        groups = rate_groups(parameters, self.options, self.defaults)
        return _Adafactor(groups, parameters, self.options)

    def state_bytes(self, parameter: ParameterInfo) -> StateBytes:
        """Return those of the means of rows and columns, or of a vector's second moment."""
        size = parameter.size
        if len(size) < 2:
            return StateBytes(sharded=FP32_BYTES * size.numel())
        n_means = size[:-1].numel() + size[:-2].numel() * size[-1]
        return StateBytes(replicated=FP32_BYTES * n_means)

    def predicted_bytes_sent(self, parameters: Sequence[TrainedParameter]) -> float:
        """Each gradient is gathered, or the update of a vector; parameters if rates are relative.

        Parameters are gathered for their root mean square.
        """
        n_tensors = 2 if _is_relative(self.options) else 1
        return n_tensors * sum(gather_bytes(parameter) for parameter in parameters)


def _is_relative(options: AdafactorOptions) -> bool:
    return options.scale == "relative" or (options.scale == "auto" and options.lr is not None)


class _Adafactor(ParameterOptimizer[AdafactorOptions]):
    def __init__(
        self,
        groups: list[Group],
        parameters: Sequence[TrainedParameter],
        options: AdafactorOptions,
    ) -> None:
        super().__init__(groups, parameters, options)
        self._is_relative = _is_relative(options)

    def change(self, parameter: TrainedParameter, grad: Tensor, state: State, lr: float) -> Tensor:
        """Return the clipped update times the rate."""
        step = count_step(state)
        new = step**-self._options.decay  # 1 - beta2
        size = torch.tensor(min(lr, step**-0.5), device=grad.device)
        if self._is_relative:
            whole_value = gather(parameter.value.detach(), parameter.shard)
            size = size * _root_mean_square(whole_value).clamp_(min=EPSILON_2)
        if len(parameter.info.size) > 1:
            whole_update = _factored(gather(grad, parameter.shard), state, new)
            update = local_part(whole_update, parameter)
        else:
            variance = moment(state, "variance", parameter.value)
            sharded_update = _normalized(grad, variance.lerp_(grad * grad, new))
            whole_update = gather(sharded_update, parameter.shard)
            update = local(sharded_update)
        clipping = (_root_mean_square(whole_update) / self._options.clip).clamp_(min=1.0)
        return update * (size / clipping)


def _factored(grad: Tensor, state: State, new: float) -> Tensor:
    """Return the update of matrices, and take their new means of rows and columns into account."""
    squares = grad * grad
    means = {"rows": squares.mean(-1), "columns": squares.mean(-2)}
    for name, mean in means.items():
        if name not in state:
            state[name] = torch.zeros_like(mean)
        state[name].lerp_(mean, new)
    rows = state["rows"]
    outer = rows[..., :, None] * state["columns"][..., None, :]
    mean = rows.mean(-1)[..., None, None].clamp_(min=EPSILON_1)
    return _normalized(grad, outer / mean)


def _normalized(grad: Tensor, variance: Tensor) -> Tensor:
    return grad * variance.clamp(min=EPSILON_1**2).rsqrt()


def _root_mean_square(values: Tensor) -> Tensor:
    root: Tensor = values.square().mean().sqrt()
    return root
