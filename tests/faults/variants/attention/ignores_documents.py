"""Claims to support masked documents, as its base class does, and attends to all of them.

check: documents, depends on document 0
"""

from variants.attention.mha import MultiHead


class AllDocuments(MultiHead):
    def attend(self, q_BHTD, k_BGTD, v_BGTD, positions_T, positional, documents_BT=None):
        return super().attend(q_BHTD, k_BGTD, v_BGTD, positions_T, positional)
