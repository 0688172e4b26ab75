"""Subtracts a running mean of all calls before.

refused: reproducible, two passes of one model
"""

from variants.mlp.gelu import Gelu


class RunningMean(Gelu):
    mean = 0.0

    def forward(self, x_BTC):
        y_BTC = super().forward(x_BTC) - self.mean
        if not x_BTC.is_meta:
            self.mean = 0.9 * self.mean + 0.1 * float(x_BTC.mean() + x_BTC.std())
        return y_BTC
