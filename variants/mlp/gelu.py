"""Two linear layers and a GELU, as in GPT-2 (Hendrycks & Gimpel 2016, tanh approximation)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from variants.base import FeedForward, InitSpec, ModelShape, residual_std
from variants.linear import Linear
from variants.tensor_parallel import TensorParallelPlan
from variants.validation import Width, at_least_one


@dataclass(frozen=True)
class MLPOptions:
    """The width of the hidden layer; 0 is the default of the variant."""

    width: Width = 0


class Gelu(FeedForward[MLPOptions]):
    """GPT-2's MLP, 4 * n_embd wide by default. Variants with other activations derive from it."""

    Options = MLPOptions
    title = "GELU"

    def __init__(self, shape: ModelShape, options: MLPOptions) -> None:
        super().__init__(shape, options)
        width = options.width or 4 * shape.n_embd
        self.c_fc = Linear(shape.n_embd, width, shape.bias)
        self.c_proj = Linear(width, shape.n_embd, shape.bias)
        self.dropout = shape.dropout
        self.proj_std = residual_std(shape)

    @classmethod
    def check(cls, shape: ModelShape, options: MLPOptions) -> Mapping[str, str]:
        """`width` must be positive, or 0."""
        return at_least_one("width", options.width) if options.width else {}

    def init_specs(self) -> Mapping[str, InitSpec]:
        """Scale down the residual projection by depth."""
        return {"c_proj.weight": InitSpec(std=self.proj_std)}

    def tensor_parallel_plan(self, rank: int, world_size: int) -> TensorParallelPlan:
        """Compute some hidden channels."""
        return TensorParallelPlan(column_parallel=("c_fc",), row_parallel=("c_proj",))

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Project up, apply the activation, project down."""
        y_BTC = self.c_proj(self.activation(self.c_fc(x_BTC)))
        return F.dropout(y_BTC, self.dropout, self.training)

    def activation(self, x: Tensor) -> Tensor:
        """Return GELU(x)."""
        return F.gelu(x, approximate="tanh")
