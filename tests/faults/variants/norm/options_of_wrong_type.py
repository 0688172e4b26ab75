"""A default that is not of the option's type.

refused: axes.norm[0].scale, 'large'
"""

from dataclasses import dataclass

from variants.norm.layernorm import LayerNorm


class Scaled(LayerNorm):
    @dataclass(frozen=True)
    class Options:
        scale: float = "large"
