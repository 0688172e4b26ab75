"""Grouped-query attention: several query heads share one key-value head (Ainslie et al. 2023, section 2.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from variants.api import Shape, at_least_one
from variants.attention.mha import MultiHead


class GroupedQuery(MultiHead):
    """Multi-head attention with `n_kv_head` key-value heads; query heads h share key-value head h * G // H."""

    @dataclass(frozen=True)
    class Options:
        """Parameters: the number of key-value heads."""

        n_kv_head: int

    @classmethod
    def check(cls, shape: Shape, options: Any) -> Mapping[str, str]:
        """Groups have equal size."""
        if shape.n_head > 0 and options.n_kv_head > 0 and shape.n_head % options.n_kv_head:
            divisors = ", ".join(str(n) for n in range(1, shape.n_head + 1) if shape.n_head % n == 0)
            return {"n_kv_head": f"{options.n_kv_head} does not divide n_head = {shape.n_head}; allowed: {divisors}"}
        return at_least_one("n_kv_head", options.n_kv_head)

    @staticmethod
    def kv_heads(shape: Shape, options: Any) -> int:
        """Return the number that the study gives."""
        return int(options.n_kv_head)
