"""Divides by zero.

refused: finite, ln_1
"""

from variants.norm.layernorm import LayerNorm


class Zero(LayerNorm):
    def forward(self, x_BTC):
        return super().forward(x_BTC) / 0.0
