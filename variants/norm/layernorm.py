"""Zero mean and unit variance, then a trained gain and bias (Ba et al. 2016, eq. 4; GPT-2's own)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.base import InitSpec, ModelShape, Norm

EPSILON = 1e-5  # GPT-2's `layer_norm_epsilon`


class LayerNorm(Norm):
    """Gain 1 and bias 0 at first."""

    def __init__(self, shape: ModelShape, options: Any) -> None:
        super().__init__(shape, options)
        self.weight = nn.Parameter(torch.empty(shape.n_embd))
        self.bias = nn.Parameter(torch.empty(shape.n_embd))

    def init_specs(self) -> Mapping[str, InitSpec]:
        """Begin as plain normalisation."""
        return {"weight": InitSpec(value=1.0), "bias": InitSpec(value=0.0)}

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(x - mean) / sqrt(variance + epsilon) * weight + bias."""
        return F.layer_norm(x_BTC, self.weight.shape, self.weight, self.bias, EPSILON)
