"""Parameter groups: parameters with and without weight decay, matrices first."""

from collections.abc import Sequence
from typing import TypedDict

from torch import Tensor

from variants.parameters import TrainedParameter


class Group(TypedDict):
    """A group of a torch optimizer."""

    params: list[Tensor]
    weight_decay: float


def decay_groups(parameters: Sequence[TrainedParameter], weight_decay: float) -> list[Group]:
    """Return the group of parameters with weight decay, then that of the others, if not empty."""
    decayed = [parameter.value for parameter in parameters if parameter.info.decays]
    others = [parameter.value for parameter in parameters if not parameter.info.decays]
    groups: list[Group] = []
    if decayed:
        groups.append({"params": decayed, "weight_decay": weight_decay})
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    return groups


def stated_or(value: float | None, default: float) -> float:
    """Return an option, or the default if the study does not state it."""
    return default if value is None else value
