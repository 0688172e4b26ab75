"""Only the training reads the next token.

refused: causality, h.0.mlp, training mode
"""

from variants.mlp.gelu import Gelu


class LeakyTraining(Gelu):
    def forward(self, x_BTC):
        if self.training:
            x_BTC = x_BTC.roll(-1, dims=-2)
        return super().forward(x_BTC)
