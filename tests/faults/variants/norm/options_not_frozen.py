"""Options that may change after they are recorded.

refused: options_not_frozen.py:12, must be frozen
"""

from dataclasses import dataclass

from variants.norm.layernorm import LayerNorm


class Scaled(LayerNorm):
    @dataclass
    class Options:
        scale: float = 1.0
