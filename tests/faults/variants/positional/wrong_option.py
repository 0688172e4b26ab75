"""A check that fails.

refused: wrong_option.py:12, `check`, KeyError
"""

from variants.positional.learned import Learned


class Checked(Learned):
    @classmethod
    def check(cls, shape, options):
        return {"width": {}["width"]}
