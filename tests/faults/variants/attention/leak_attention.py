"""Attends to all positions.

refused: causality, h.0.attn, leak_attention.py
"""

from variants.attention.mha import MultiHead


class Bidirectional(MultiHead):
    def attend(self, q_BHTD, k_BGTD, v_BGTD, positions_T, positional):
        return self.scores(q_BHTD, k_BGTD, v_BGTD, None)
