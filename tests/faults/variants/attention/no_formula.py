"""Lacks the formula of its FLOPs.

refused: no_formula.py:11, must define `flops_per_token`
"""

from torch import nn

from variants.base import Attention


class Projection(Attention):
    def __init__(self, shape, options, layer):
        super().__init__(shape, options, layer)
        self.value = nn.Linear(shape.n_embd, shape.n_embd)

    def forward(self, x_BTC, positions_T, positional, cache=None):
        return self.value(x_BTC)
