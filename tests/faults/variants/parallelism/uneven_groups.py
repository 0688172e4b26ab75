"""More data-parallel groups than processes.

refused: uneven_groups.py, data_parallel_size
"""

from variants.parallelism.single import Single


class Uneven(Single):
    @property
    def data_parallel_size(self):
        return 2
