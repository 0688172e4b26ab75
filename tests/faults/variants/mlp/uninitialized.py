"""Parameters without initial values.

refused: uninitialized.py:12, gain, no initial values, init_specs
"""

import torch
from torch import nn

from variants.mlp.gelu import Gelu


class Uninitialized(Gelu):
    def __init__(self, shape, options):
        super().__init__(shape, options)
        self.gain = nn.Parameter(torch.ones(shape.n_embd))

    def forward(self, x_BTC):
        return self.gain * super().forward(x_BTC)
