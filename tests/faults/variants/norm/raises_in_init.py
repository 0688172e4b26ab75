"""An attribute that the shape does not have.

refused: raises_in_init.py:12, AttributeError
"""

from variants.norm.layernorm import LayerNorm


class WrongName(LayerNorm):
    def __init__(self, shape, options):
        super().__init__(shape, options)
        self.width = shape.width
