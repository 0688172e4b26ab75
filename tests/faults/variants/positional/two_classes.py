"""Two variants in one file.

refused: exactly one subclass, First, two_classes.py:13
"""

from variants.positional.learned import Learned


class First(Learned):
    pass


class Second(Learned):
    pass
