"""Noise of numpy's generator, which no run seeds.

refused: reproducible, two passes of one model
"""

import numpy as np

from variants.mlp.gelu import Gelu


class NoisyInTraining(Gelu):
    def forward(self, x_BTC):
        y_BTC = super().forward(x_BTC)
        return y_BTC * (1 + 0.1 * np.random.rand()) if self.training else y_BTC
