"""Grouped-query attention: several query heads share one key-value head (Ainslie et al. 2023, section 2.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from variants.attention.mha import MultiHead
from variants.base import ModelShape
from variants.conversion import ConvertedTensor, conversion
from variants.validation import at_least_one

Pooling = Literal["mean", "first", "random"]


class GroupedQuery(MultiHead):
    """Multi-head attention with `n_kv_head` key-value heads; query heads h share key-value head h * G // H.

    Started from a checkpoint with more of them, each becomes the mean of a group of theirs, or the group's first, or is
    drawn afresh (`kv_pooling`; Ainslie et al. 2023, 2.1 and figure 4, where they rank in this order).
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(MultiHead.Options):
        """Parameters: the number of key-value heads, and how they are made from a checkpoint's."""

        n_kv_head: int
        kv_pooling: Pooling = conversion("mean")

    def __init__(self, shape: ModelShape, options: Any, layer: int) -> None:
        super().__init__(shape, options, layer)
        self.pooling: Pooling = options.kv_pooling

    @classmethod
    def check(cls, shape: ModelShape, options: Any) -> Mapping[str, str]:
        """ParameterGroups have equal size."""
        if shape.n_head > 0 and options.n_kv_head > 0 and shape.n_head % options.n_kv_head:
            divisors = ", ".join(
                str(n) for n in range(1, shape.n_head + 1) if shape.n_head % n == 0
            )
            return {
                "n_kv_head": f"{options.n_kv_head} does not divide n_head = {shape.n_head}; allowed: {divisors}"
            }
        return {**super().check(shape, options), **at_least_one("n_kv_head", options.n_kv_head)}

    @staticmethod
    def kv_heads(shape: ModelShape, options: Any) -> int:
        """Return the number that the study gives."""
        return int(options.n_kv_head)

    def load_from(
        self, theirs: Mapping[str, Tensor], fresh: Mapping[str, Tensor]
    ) -> dict[str, ConvertedTensor]:
        """Load what fits; make k and v from groups of the checkpoint's heads, as `kv_pooling` says."""
        n_theirs = (len(theirs.get("c_attn.bias", fresh["c_attn.bias"])) - self.q_width) // (
            2 * self.head_dim
        )
        if n_theirs == self.n_kv_head:
            return super().load_from(theirs, fresh)
        if n_theirs % self.n_kv_head:
            raise ValueError(
                f"c_attn: {n_theirs} key-value heads there do not group into {self.n_kv_head} here"
            )
        grouped = {name: theirs[name] for name in ("c_attn.weight", "c_attn.bias")}
        adopted = super().load_from(
            {name: theirs[name] for name in theirs.keys() - grouped.keys()}, fresh
        )
        kept = (
            "fresh"
            if self.pooling == "random"
            else f"the {self.pooling} of each {n_theirs // self.n_kv_head} heads"
        )
        for name, values in grouped.items():
            pooled = self._pooled(values, fresh[name], n_theirs * self.head_dim)
            adopted[name] = ConvertedTensor(pooled, f"converted: q loaded, k and v {kept}")
        return adopted

    def _pooled(self, theirs: Tensor, fresh: Tensor, width: int) -> Tensor:
        """Return (C + 2 G D, ...) from (C + 2 * width, ...), the rows of q, k and v."""
        q, *k_and_v = theirs.split((self.q_width, width, width))
        if self.pooling == "random":
            return torch.cat((q, fresh[self.q_width :]))
        groups = [x.unflatten(0, (self.n_kv_head, -1, self.head_dim)) for x in k_and_v]
        pooled = [x.mean(1) if self.pooling == "mean" else x[:, 0] for x in groups]
        return torch.cat((q, *(x.flatten(0, 1) for x in pooled)))
