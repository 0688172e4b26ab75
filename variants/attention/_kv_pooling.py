"""Key-value heads that query heads share, and their conversion from a checkpoint with more."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from variants.attention.mha import MultiHead, OptionsT
from variants.conversion import ConvertedTensor

Pooling = Literal["mean", "first", "random"]


class PooledMultiHead(MultiHead[OptionsT]):
    """Multi-head attention with fewer key-value heads than query heads.

    If a checkpoint has more key-value heads, each head here becomes the mean of a group of them,
    the first of the group, or keeps its random initialization (Ainslie et al. 2023, 2.1 and figure
    4, where the three rank in this order).
    """

    pooling: Pooling

    def load_from(
        self, source_tensors: Mapping[str, Tensor], initial_tensors: Mapping[str, Tensor]
    ) -> dict[str, ConvertedTensor]:
        """Load equal tensors; pool k and v of the checkpoint's heads."""
        rows = len(source_tensors.get("c_attn.weight", initial_tensors["c_attn.weight"]))
        n_source = (rows - self.q_width) // (2 * self.head_dim)
        if n_source == self.n_kv_head:
            return super().load_from(source_tensors, initial_tensors)
        if n_source % self.n_kv_head:
            raise ValueError(
                f"c_attn: {n_source} key-value heads there do not group into {self.n_kv_head} here"
            )
        others = dict(source_tensors)
        in_both = source_tensors.keys() & initial_tensors.keys()
        pooled = {
            name: others.pop(name) for name in ("c_attn.weight", "c_attn.bias") if name in in_both
        }
        converted = super().load_from(others, initial_tensors)
        k_and_v = f"the {self.pooling} of each {n_source // self.n_kv_head} heads"
        if self.pooling == "random":
            k_and_v = "fresh"
        for name, source in pooled.items():
            values = self._pool(source, initial_tensors[name], n_source * self.head_dim)
            converted[name] = ConvertedTensor(values, f"converted: q loaded, k and v {k_and_v}")
        return converted

    def _pool(self, source: Tensor, initial: Tensor, width: int) -> Tensor:
        """Return the rows of q, k and v, (C + 2 G D, ...), from (C + 2 * width, ...)."""
        q, k, v = source.split((self.q_width, width, width))
        if self.pooling == "random":
            return torch.cat((q, initial[self.q_width :]))
        return torch.cat((q, self._pool_heads(k), self._pool_heads(v)))

    def _pool_heads(self, source: Tensor) -> Tensor:
        groups: Tensor = source.unflatten(0, (self.n_kv_head, -1, self.head_dim))
        heads = groups.mean(1) if self.pooling == "mean" else groups[:, 0]
        return heads.flatten(0, 1)
