"""The input of an optimizer: parameters with their roles in the model, and values of `[train]`.

A rank holds a parameter as a whole, as a `DTensor` (FSDP, ZeRO), or as the shard that a `ShardSpec`
describes (tensor parallelism), or as both of the latter.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from variants.tensor_parallel import ShardSpec

FP32_BYTES = 4  # of parameters, gradients and state

# `matrix`: weights of blocks. `embedding`: other weights with at least 2 dimensions, the output
# projection included. `vector`: gains and biases.
ParameterKind = Literal["matrix", "embedding", "vector"]


@dataclass(frozen=True)
class ParameterInfo:
    """A parameter of the whole model.

    `size` is its whole shape. `blocks` has the rows of its logical blocks (`InitSpec.blocks`), for
    example those of q, k and v; it is empty if there is only one.
    """

    name: str
    kind: ParameterKind
    size: torch.Size
    blocks: tuple[int, ...] = ()

    @property
    def decays(self) -> bool:
        """Whether weight decay applies: to all but gains and biases, as in GPT-2."""
        return self.kind != "vector"


@dataclass(frozen=True)
class TrainedParameter:
    """A parameter, its values on this rank, and its tensor-parallel shard, None without one."""

    info: ParameterInfo
    value: Tensor
    shard: ShardSpec | None = None


@dataclass(frozen=True, kw_only=True)
class OptimizerDefaults:
    """Values of `[train]` that apply where an optimizer's own options state none.

    The betas are Adam's. The schedule changes `lr`, the peak.
    """

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1


@dataclass(frozen=True)
class StateBytes:
    """Bytes of one parameter's state: `sharded` as the parameter is, `replicated` on every rank."""

    sharded: float = 0.0
    replicated: float = 0.0
