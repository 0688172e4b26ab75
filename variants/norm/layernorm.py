"""Zero mean, unit variance, then a trained gain and bias, as in GPT-2 (Ba et al. 2016, eq. 4)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.base import InitSpec, ModelShape, NoOptions, Norm

EPSILON = 1e-5  # GPT-2's `layer_norm_epsilon`


class LayerNorm(Norm[NoOptions]):
    """Layer normalization. The gain starts at 1, the bias at 0; `bias = false` leaves it out."""

    title = "LayerNorm"

    bias: nn.Parameter | None

    def __init__(self, shape: ModelShape, options: NoOptions) -> None:
        super().__init__(shape, options)
        self.weight = nn.Parameter(torch.empty(shape.n_embd))
        self.bias = nn.Parameter(torch.empty(shape.n_embd)) if shape.bias else None

    def init_specs(self) -> Mapping[str, InitSpec]:
        """Start with the identity after normalization."""
        return {"weight": InitSpec(value=1.0), "bias": InitSpec(value=0.0)}

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return (x - mean) / sqrt(variance + epsilon) * weight + bias."""
        return F.layer_norm(x_BTC, self.weight.shape, self.weight, self.bias, EPSILON)
