"""Unit root mean square, then a trained gain; no mean is taken off, no bias added (Zhang & Sennrich 2019, eq. 4)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.base import InitSpec, ModelShape, Norm

EPSILON = 1e-5  # as LayerNorm's here, so that nothing else differs


class RMSNorm(Norm):
    """Gain 1 at first."""

    def __init__(self, shape: ModelShape, options: Any) -> None:
        super().__init__(shape, options)
        self.weight = nn.Parameter(torch.empty(shape.n_embd))

    def init_specs(self) -> Mapping[str, InitSpec]:
        """Begin as plain normalisation."""
        return {"weight": InitSpec(value=1.0)}

    def forward(self, x_BTC: Tensor) -> Tensor:
        """X / sqrt(mean(x^2) + epsilon) * weight."""
        return F.rms_norm(x_BTC, self.weight.shape, self.weight, EPSILON)
