"""Normalizes over the sequence, later tokens included.

refused: causality, h.0.ln_1, leak_norm.py
"""

from variants.norm.layernorm import LayerNorm


class OverTime(LayerNorm):
    def forward(self, x_BTC):
        return super().forward(x_BTC - x_BTC.mean(-2, keepdim=True))
