"""A product of shapes that do not match.

refused: raises_in_forward.py:11, RuntimeError
"""

from variants.mlp.gelu import Gelu


class WrongShape(Gelu):
    def forward(self, x_BTC):
        return super().forward(x_BTC) @ self.c_fc.weight
