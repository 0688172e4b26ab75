"""Forgets the prompt when it decodes.

refused: cache
"""

from variants.attention.mha import MultiHead


class Forgetful(MultiHead):
    def attend_cache(self, q_BH1D, cache, position_1, positional):
        k_BGLD, v_BGLD = cache.visible()
        return self.scores(q_BH1D, k_BGLD[:, :, -1:], v_BGLD[:, :, -1:], None)
