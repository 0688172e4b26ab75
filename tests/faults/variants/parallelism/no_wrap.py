"""Lacks the method that wraps the model.

refused: no_wrap.py:9, must define `wrap`
"""

from variants.base import Parallelism


class Empty(Parallelism):
    pass
