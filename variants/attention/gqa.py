"""Grouped-query attention: groups of query heads share k and v (Ainslie et al. 2023, 2.2)."""

from collections.abc import Mapping
from dataclasses import dataclass

from variants.attention._kv_pooling import PooledMultiHead, Pooling
from variants.attention.mha import MultiHeadOptions
from variants.base import ModelShape
from variants.conversion import conversion
from variants.validation import Width, divides


@dataclass(frozen=True, kw_only=True)
class GroupedQueryOptions(MultiHeadOptions):
    """The number of key-value heads, and how they are made from those of a checkpoint."""

    n_kv_head: Width
    kv_pooling: Pooling = conversion("mean")


class GroupedQuery(PooledMultiHead[GroupedQueryOptions]):
    """Attention with G = `n_kv_head` key-value heads; query head h uses head h * G // H."""

    Options = GroupedQueryOptions
    title = "GQA-{n_kv_head}"

    def __init__(self, shape: ModelShape, options: GroupedQueryOptions, layer: int) -> None:
        super().__init__(shape, options, layer)
        self.pooling = options.kv_pooling

    @classmethod
    def check(cls, shape: ModelShape, options: GroupedQueryOptions) -> Mapping[str, str]:
        """`n_kv_head` must divide `n_head`."""
        return {
            **super().check(shape, options),
            **divides("n_kv_head", options.n_kv_head, "n_head", shape.n_head),
        }

    @staticmethod
    def kv_heads(shape: ModelShape, options: GroupedQueryOptions) -> int:
        """Return `n_kv_head`."""
        return options.n_kv_head
