"""Lacks the method that makes the optimizer.

refused: no_make.py:10, must define `make`
"""

from variants.base import Optimizer
from variants.parameters import StateBytes


class NoMake(Optimizer):
    def state_bytes(self, parameter):
        return StateBytes()
