"""A file without a class.

refused: no_class.py, exactly one subclass of Attention, none
"""

WIDTH = 3
