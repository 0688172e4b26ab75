"""Divides by the number of sequences.

refused: batch
"""

from variants.mlp.gelu import Gelu


class PerBatch(Gelu):
    def forward(self, x_BTC):
        return super().forward(x_BTC) / len(x_BTC)
