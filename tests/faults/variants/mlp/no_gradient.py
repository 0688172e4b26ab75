"""The hidden layer is computed without gradients.

refused: gradients, h.0.ln_2
"""

import torch

from variants.mlp.gelu import Gelu


class Detached(Gelu):
    def activation(self, x):
        with torch.no_grad():
            return super().activation(x)
