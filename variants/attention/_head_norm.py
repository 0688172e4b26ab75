"""The norm of heads and of latents, shared by the variants that have one."""

import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5


class HeadNorm(nn.RMSNorm):
    """Its gain takes the precision of what it scales: bf16 heads with an fp32 gain would miss the fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """Give each head unit root mean square, times the gain."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
