"""Its result depends on the clock.

refused: reproducible, different losses
"""

import time

from variants.attention.mha import MultiHead


class Timed(MultiHead):
    def forward(self, x_BTC, positions_T, positional, cache=None):
        jitter = 1 + 1e-4 * (time.perf_counter_ns() % 1000)
        return jitter * super().forward(x_BTC, positions_T, positional, cache)
