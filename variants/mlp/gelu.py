"""Two linear layers with a GELU between (Hendrycks & Gimpel 2016, its tanh approximation; GPT-2's own)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from variants.base import FeedForward, InitSpec, ModelShape, residual_std
from variants.linear import Linear
from variants.tensor_parallel import TensorParallelPlan
from variants.validation import at_least_one


class Gelu(FeedForward):
    """Four times as wide inside, unless `width` says otherwise. Other activations derive from this class."""

    @dataclass(frozen=True)
    class Options:
        """Parameters: the width inside; 0 is 4 * n_embd."""

        width: int = 0

    def __init__(self, shape: ModelShape, options: Any) -> None:
        super().__init__(shape, options)
        width = options.width or 4 * shape.n_embd
        self.c_fc = Linear(shape.n_embd, width)
        self.c_proj = Linear(width, shape.n_embd)
        self.dropout, self.proj_std = shape.dropout, residual_std(shape)

    @classmethod
    def check(cls, shape: ModelShape, options: Any) -> Mapping[str, str]:
        """Wide enough to be there."""
        return at_least_one("width", options.width) if options.width else {}

    def init_specs(self) -> Mapping[str, InitSpec]:
        """The residual projection is scaled down by depth."""
        return {"c_proj.weight": InitSpec(std=self.proj_std)}

    def tensor_parallel_plan(self, rank: int, n: int) -> TensorParallelPlan:
        """Compute some of the inner channels."""
        return TensorParallelPlan(column_parallel=("c_fc",), row_parallel=("c_proj",))

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Widen, activation, narrow."""
        return F.dropout(
            self.c_proj(self.activation(self.c_fc(x_BTC))), self.dropout, self.training
        )

    def activation(self, x: Tensor) -> Tensor:
        """Return GELU(x)."""
        return F.gelu(x, approximate="tanh")
