"""Changes its input in place.

refused: input, h.0.mlp
"""

import torch

from variants.mlp.gelu import Gelu


class InPlace(Gelu):
    def forward(self, x_BTC):
        y_BTC = super().forward(x_BTC)
        with torch.no_grad():
            x_BTC.mul_(0.5)
        return y_BTC
