"""A window whose mask forgets later keys at a distance.

refused: causality, attn (HalfMasked, leak_beyond_window.py
"""

from variants.attention.mha import MultiHead


class HalfMasked(MultiHead):
    def attend(self, q_BHTD, k_BGTD, v_BGTD, positions_T, positional):
        distance = positions_T[:, None] - positions_T
        visible = (distance >= 0) | (distance < -40)
        return self.scores(q_BHTD, k_BGTD, v_BGTD, visible)
