"""Multi-query attention: all query heads share one key-value head (Shazeer 2019)."""

from dataclasses import dataclass

from variants.attention._kv_pooling import PooledMultiHead, Pooling
from variants.attention.mha import MultiHeadOptions
from variants.base import ModelShape
from variants.conversion import conversion


@dataclass(frozen=True, kw_only=True)
class MultiQueryOptions(MultiHeadOptions):
    """How the key-value head is made from those of a checkpoint."""

    kv_pooling: Pooling = conversion("mean")


class MultiQuery(PooledMultiHead[MultiQueryOptions]):
    """Multi-head attention with a single key-value head."""

    Options = MultiQueryOptions
    title = "MQA"

    def __init__(self, shape: ModelShape, options: MultiQueryOptions, layer: int) -> None:
        super().__init__(shape, options, layer)
        self.pooling = options.kv_pooling

    @staticmethod
    def kv_heads(shape: ModelShape, options: MultiQueryOptions) -> int:
        """Return 1."""
        return 1
