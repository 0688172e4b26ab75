"""The step of optimizers that PyTorch lacks: one parameter after the other, with weight decay."""

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypedDict, TypeVar

import torch
from torch import Tensor

from variants.dtensor import local
from variants.parameters import OptimizerDefaults, TrainedParameter

ADAM_EPSILON = 1e-8
State = dict[str, Tensor]
OptionsT = TypeVar("OptionsT")


class Group(TypedDict):
    """A group of a torch optimizer."""

    params: list[Tensor]
    lr: float
    weight_decay: float


def decay_groups(
    parameters: Sequence[TrainedParameter], lr: float, weight_decay: float
) -> list[Group]:
    """Return the group of parameters with weight decay, then that of the others, if not empty."""
    decayed = [parameter.value for parameter in parameters if parameter.info.decays]
    others = [parameter.value for parameter in parameters if not parameter.info.decays]
    groups: list[Group] = []
    if decayed:
        groups.append({"params": decayed, "lr": lr, "weight_decay": weight_decay})
    if others:
        groups.append({"params": others, "lr": lr, "weight_decay": 0.0})
    return groups


def stated_or(value: float | None, default: float) -> float:
    """Return an option, or the default if the study does not state it."""
    return default if value is None else value


class RateOptions(Protocol):
    """Options with a learning rate and a weight decay, null for those of `[train]`."""

    @property
    def lr(self) -> float | None:
        """Return the learning rate."""
        ...

    @property
    def weight_decay(self) -> float | None:
        """Return the weight decay."""
        ...


def rate_groups(
    parameters: Sequence[TrainedParameter], options: RateOptions, defaults: OptimizerDefaults
) -> list[Group]:
    """Return the groups of parameters with the rate and the weight decay of the options."""
    lr = stated_or(options.lr, defaults.lr)
    return decay_groups(parameters, lr, stated_or(options.weight_decay, defaults.weight_decay))


class ParameterOptimizer(torch.optim.Optimizer, Generic[OptionsT]):
    """Subtracts from each parameter its `change`, after decoupled weight decay.

    theta <- (1 - lr * weight_decay) * theta - change (Loshchilov & Hutter 2019).
    """

    def __init__(
        self,
        groups: Sequence[Group],
        parameters: Sequence[TrainedParameter],
        options: OptionsT,
    ) -> None:
        super().__init__(groups, {})  # type: ignore[arg-type]
        self._trained = {parameter.value: parameter for parameter in parameters}
        self._options = options

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            lr = group["lr"]
            for value in group["params"]:
                if value.grad is None:
                    continue
                change = self.change(self._trained[value], value.grad, self.state[value], lr)
                local(value).mul_(1 - lr * group["weight_decay"]).sub_(change)

    def change(self, parameter: TrainedParameter, grad: Tensor, state: State, lr: float) -> Tensor:
        """Return this rank's part of what is subtracted, and update the state, at first empty."""
        raise NotImplementedError


def count_step(state: State) -> float:
    """Return the number of the step, from 1, and count it in the state."""
    if "step" not in state:
        state["step"] = torch.zeros(())
    state["step"] += 1
    return state["step"].item()


def moment(state: State, name: str, value: Tensor) -> Tensor:
    """Return a state of the parameter's shape and sharding, which starts at 0."""
    if name not in state:
        state[name] = torch.zeros_like(value, requires_grad=False)
    return state[name]


def adam_direction(
    parameter: TrainedParameter, grad: Tensor, state: State, betas: tuple[float, float]
) -> Tensor:
    """Return this rank's part of Adam's direction (Kingma & Ba 2015, algorithm 1)."""
    beta1, beta2 = betas
    step = count_step(state)
    g = local(grad)
    mean = local(moment(state, "exp_avg", parameter.value)).lerp_(g, 1 - beta1)
    square = local(moment(state, "exp_avg_sq", parameter.value))
    square.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    root = (square / (1 - beta2**step)).sqrt_().add_(ADAM_EPSILON)
    direction: Tensor = mean / (1 - beta1**step) / root
    return direction
