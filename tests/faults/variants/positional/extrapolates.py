"""Claims positions beyond the trained length, which its table lacks.

check: extrapolates
"""

from variants.positional.learned import Learned


class Claims(Learned):
    extrapolates = True
