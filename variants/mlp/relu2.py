"""The square of ReLU instead of GELU (Primer; So et al. 2021, section 4.2)."""

import torch.nn.functional as F
from torch import Tensor

from variants.mlp.gelu import Gelu


class SquaredRelu(Gelu):
    """GPT-2's MLP with the activation max(x, 0)^2."""

    title = "ReLU²"

    def activation(self, x: Tensor) -> Tensor:
        """Return max(x, 0)^2."""
        return F.relu(x).square()
