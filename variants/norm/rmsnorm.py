"""Unit root mean square, then a trained gain; no mean, no bias (Zhang & Sennrich 2019, eq. 4)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.base import InitSpec, ModelShape, NoOptions, Norm

EPSILON = 1e-5  # the same as in `layernorm`, so that the epsilon does not differ


class RMSNorm(Norm[NoOptions]):
    """Root mean square normalization. The gain starts at 1."""

    title = "RMSNorm"

    def __init__(self, shape: ModelShape, options: NoOptions) -> None:
        super().__init__(shape, options)
        self.weight = nn.Parameter(torch.empty(shape.n_embd))

    def init_specs(self) -> Mapping[str, InitSpec]:
        """Start with the identity after normalization."""
        return {"weight": InitSpec(value=1.0)}

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return x / sqrt(mean(x^2) + epsilon) * weight."""
        return F.rms_norm(x_BTC, self.weight.shape, self.weight, EPSILON)
