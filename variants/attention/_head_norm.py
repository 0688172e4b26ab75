"""RMS normalization of heads and latents, shared by the variants that use it."""

import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """Return x with unit root mean square over its last dimension, times the gain.

    The gain is cast to the type of x: with bf16 heads, an fp32 gain would prevent the fused kernel.
    """
    return F.rms_norm(x, gain.shape, gain.to(x.dtype), EPSILON)


class HeadNorm(nn.RMSNorm):
    """`rms_norm` of each head with a trained gain."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x normalized over its last dimension."""
        return rms_norm(x, self.weight)
