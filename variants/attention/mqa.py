"""Multi-query attention: all query heads share one key-value head (Shazeer 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from variants.attention.gqa import GroupedQuery, Pooling
from variants.attention.mha import MultiHead
from variants.base import ModelShape
from variants.conversion import conversion


class MultiQuery(GroupedQuery):
    """Grouped-query attention with a single key-value head."""

    @dataclass(frozen=True, kw_only=True)
    class Options(MultiHead.Options):
        """Parameters: how the head is made from a checkpoint's."""

        kv_pooling: Pooling = conversion("mean")

    @classmethod
    def check(cls, shape: ModelShape, options: Any) -> Mapping[str, str]:
        """One head serves any number."""
        return MultiHead.check(shape, options)

    @staticmethod
    def kv_heads(shape: ModelShape, options: Any) -> int:
        """Return 1."""
        return 1
