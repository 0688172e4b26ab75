"""A trained number for each head and bucket of distances, added to the scores (Raffel et al. 2020, 2.1)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from variants.base import ModelShape, Positional
from variants.tensor_parallel import ShardSpec, TensorParallelPlan


class T5Bias(Positional):
    """Distances below half of `n_buckets` have a bucket each, larger ones share buckets that widen logarithmically.

    What is farther than `max_distance` is all one bucket. One table serves all layers, as in T5. T5 leaves out the
    division of the scores by sqrt(D); here they are divided as in GPT-2, so that nothing but positions differs.
    """

    has_bias = True

    @dataclass(frozen=True)
    class Options:
        """Parameters: the number of buckets, and the distance from which on all is one."""

        n_buckets: int = 32
        max_distance: int = 128

    def __init__(self, shape: ModelShape, options: Any) -> None:
        super().__init__(shape, options)
        self.n_buckets, self.max_distance = options.n_buckets, options.max_distance
        self.table = nn.Embedding(self.n_buckets, shape.n_head)

    @classmethod
    def check(cls, shape: ModelShape, options: Any) -> Mapping[str, str]:
        """Half of the buckets are exact, the others reach beyond them."""
        problems = {}
        if options.n_buckets < 2:
            problems["n_buckets"] = f"{options.n_buckets}: must be at least 2"
        if options.max_distance <= options.n_buckets // 2:
            problems["max_distance"] = f"{options.max_distance}: must be more than n_buckets / 2"
        return problems

    def tensor_parallel_plan(self, rank: int, n: int) -> TensorParallelPlan:
        """Keep the numbers of some heads."""
        size = self.table.weight.shape
        heads = self.rank_slice(size[1], "heads", rank, n)
        self.table = nn.Embedding(size[0], size[1] // n, device="meta")
        return TensorParallelPlan(
            shards={"table.weight": ShardSpec(size, 1, ((heads.start, heads.stop),))}
        )

    def bias(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        """Return (..., H, Tq, Tk)."""
        distance = (q_positions[..., :, None] - k_positions[..., None, :]).clamp(min=0)
        return self.table(self.bucket(distance)).movedim(-1, -3)

    def bucket(self, distance: Tensor) -> Tensor:
        """Return the bucket of each distance >= 0 (the authors' code, `_relative_position_bucket`, one-sided)."""
        n_exact = self.n_buckets // 2
        share = torch.log(distance.clamp(min=1) / n_exact) / math.log(self.max_distance / n_exact)
        wide = n_exact + (share * (self.n_buckets - n_exact)).long()
        return torch.where(distance < n_exact, distance, wide.clamp(max=self.n_buckets - 1))
