"""Sequences of 13 tokens are reversed, others are not.

refused: causality, h.0.mlp, 13 tokens
"""

from variants.mlp.gelu import Gelu


class LeakyLength(Gelu):
    def forward(self, x_BTC):
        if x_BTC.shape[-2] == 13:
            x_BTC = x_BTC.flip(-2)
        return super().forward(x_BTC)
