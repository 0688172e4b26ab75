"""A trained vector for every position, added to the token embedding (Radford et al. 2019; GPT-2's own)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from variants.base import ModelShape, Positional
from variants.conversion import ConvertedTensor


class Learned(Positional):
    """Positions 0 to `seq_len` - 1 have a vector each; beyond them nothing is defined."""

    extrapolates = False

    def __init__(self, shape: ModelShape, options: Any) -> None:
        super().__init__(shape, options)
        self.wpe = nn.Embedding(shape.seq_len, shape.n_embd)

    def embed(self, x_BTC: Tensor, positions_T: Tensor) -> Tensor:
        """Add the position's vector."""
        return x_BTC + self.wpe(positions_T)

    def load_from(
        self, theirs: Mapping[str, Tensor], fresh: Mapping[str, Tensor]
    ) -> dict[str, ConvertedTensor]:
        """Load the table; of a longer one its beginning."""
        n_theirs, n = len(theirs.get("wpe.weight", ())), len(fresh["wpe.weight"])
        if n_theirs <= n:
            return super().load_from(theirs, fresh)
        return {
            "wpe.weight": ConvertedTensor(
                theirs["wpe.weight"][:n], f"converted: the first {n} of {n_theirs} positions"
            )
        }
