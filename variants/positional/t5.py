"""A trained bias of scores for each head and bucket of distances (Raffel et al. 2020, 2.1)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from variants.base import ModelShape, Positional
from variants.tensor_parallel import ShardSpec, TensorParallelPlan
from variants.validation import Length


@dataclass(frozen=True)
class T5Options:
    """The number of buckets, and the distance from which on all distances share the last bucket."""

    n_buckets: Length = 32
    max_distance: int = 128


class T5Bias(Positional[T5Options]):
    """A bucket for each distance below `n_buckets` / 2, logarithmically wider ones above.

    All layers share one table, as in T5. T5 does not divide the scores by sqrt(D). Here they are
    divided, as in GPT-2, so that only the positional encoding differs.
    """

    Options = T5Options
    title = "T5 bias"
    has_bias = True

    def __init__(self, shape: ModelShape, options: T5Options) -> None:
        super().__init__(shape, options)
        self.n_buckets = options.n_buckets
        self.max_distance = options.max_distance
        self.table = nn.Embedding(self.n_buckets, shape.n_head)

    @classmethod
    def check(cls, shape: ModelShape, options: T5Options) -> Mapping[str, str]:
        """Half of the buckets hold one distance each; the others must extend beyond them."""
        problems = {}
        if options.n_buckets < 2:
            problems["n_buckets"] = f"{options.n_buckets}: must be at least 2"
        if options.max_distance <= options.n_buckets // 2:
            problems["max_distance"] = f"{options.max_distance}: must be more than n_buckets / 2"
        return problems

    def tensor_parallel_plan(self, rank: int, world_size: int) -> TensorParallelPlan:
        """Keep the columns of this rank's heads."""
        size = self.table.weight.shape
        heads = self.rank_slice(size[1], "heads", rank, world_size)
        self.table = nn.Embedding(size[0], size[1] // world_size, device="meta")
        shard = ShardSpec(size, dim=1, ranges=((heads.start, heads.stop),))
        return TensorParallelPlan(shards={"table.weight": shard})

    def bias(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        """Return (..., H, Tq, Tk)."""
        distance = (q_positions[..., :, None] - k_positions[..., None, :]).clamp(min=0)
        bias: Tensor = self.table(self.bucket(distance))
        return bias.movedim(-1, -3)

    def bucket(self, distance: Tensor) -> Tensor:
        """Return the bucket of each distance >= 0 (`_relative_position_bucket`, one-sided)."""
        n_exact = self.n_buckets // 2
        log_range = math.log(self.max_distance / n_exact)
        fraction = torch.log(distance.clamp(min=1) / n_exact) / log_range
        wide = n_exact + (fraction * (self.n_buckets - n_exact)).long()
        return torch.where(distance < n_exact, distance, wide.clamp(max=self.n_buckets - 1))
