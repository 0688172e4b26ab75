"""Multi-query attention: all query heads share one key-value head (Shazeer 2019)."""

from typing import Any

from variants.api import Shape
from variants.attention.mha import MultiHead


class MultiQuery(MultiHead):
    """Multi-head attention with a single key-value head."""

    @staticmethod
    def kv_heads(shape: Shape, options: Any) -> int:
        """Return 1."""
        return 1
