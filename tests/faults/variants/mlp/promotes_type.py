"""Computes in double precision.

refused: output, h.0.mlp, float64
"""

from variants.mlp.gelu import Gelu


class Double(Gelu):
    def forward(self, x_BTC):
        return super().forward(x_BTC).double()
