"""Has a bias, which it does not declare: decoding leaves it out.

refused: cache: after a prompt
"""

from variants.positional.alibi import Alibi


class Undeclared(Alibi):
    has_bias = False
