"""How tensor parallelism shards the parameters of a module (Shoeybi et al. 2019, section 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class ShardSpec:
    """The shard of one parameter on this rank.

    `size` is the shape of the full parameter. The shard concatenates the `ranges` (start, stop) of
    dimension `dim`. `group` holds the processes that share the parameter.
    """

    size: torch.Size
    dim: int
    ranges: tuple[tuple[int, int], ...]
    group: dist.ProcessGroup | None = None


@dataclass(frozen=True)
class TensorParallelPlan:
    """How a module is computed by several processes, each with some of its heads or channels.

    `column_parallel` and `row_parallel` name linear layers. A column-parallel layer keeps some
    outputs, an equal slice of each logical block (`Part.init_specs`); a row-parallel layer keeps
    some inputs, and its outputs are summed over the processes. `replicated` names parameters (if
    they exist) that every process holds in full and uses for its own slice, so that their gradients
    are summed. `shards` states the shards of parameters that the module has sharded itself. The
    plan must cover every parameter.
    """

    column_parallel: Sequence[str] = ()
    row_parallel: Sequence[str] = ()
    replicated: Sequence[str] = ()
    shards: Mapping[str, ShardSpec] = field(default_factory=dict)


class VocabularyShard(Protocol):
    """The tokens whose rows of the embedding and of the output projection this rank holds.

    Together the processes of a group hold each of the `size` tokens once. Only `share` is
    differentiable.
    """

    @property
    def tokens(self) -> range:
        """Return the consecutive tokens of this rank."""

    @property
    def size(self) -> int:
        """Return the number of tokens of all ranks."""

    def share(self, hidden: Tensor) -> Tensor:
        """Return the input of the output projection; sum its gradients over the processes."""

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the processes."""

    def max(self, values: Tensor) -> Tensor:
        """Return the maximum over the processes."""
