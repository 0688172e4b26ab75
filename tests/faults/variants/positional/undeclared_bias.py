"""Has a bias, which it does not declare: decoding leaves it out.

refused: has_bias: Undeclared: `has_bias` is False
"""

from variants.positional.alibi import Alibi


class Undeclared(Alibi):
    has_bias = False
