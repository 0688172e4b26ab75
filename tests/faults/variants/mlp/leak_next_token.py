"""The MLP reads the next token.

refused: causality, h.0.mlp, leak_next_token.py
"""

from variants.mlp.gelu import Gelu


class Leaky(Gelu):
    def forward(self, x_BTC):
        return super().forward(x_BTC.roll(-1, dims=-2))
