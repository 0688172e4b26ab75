"""Lacks the method that normalizes.

refused: no_forward.py:9, must define `forward`
"""

from variants.base import Norm


class Empty(Norm):
    pass
