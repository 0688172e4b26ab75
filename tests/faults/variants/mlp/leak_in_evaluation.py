"""Only the evaluation reads the next token.

refused: causality, h.0.mlp, evaluation mode
"""

from variants.mlp.gelu import Gelu


class LeakyEvaluation(Gelu):
    def forward(self, x_BTC):
        if not self.training:
            x_BTC = x_BTC.roll(-1, dims=-2)
        return super().forward(x_BTC)
