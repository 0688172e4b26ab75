"""A norm in the folder of attentions.

refused: exactly one subclass of Attention, wrong_base.py:9
"""

from variants.norm.layernorm import LayerNorm


class Misplaced(LayerNorm):
    pass
