"""A trained vector for each position, added to the embedding, as in GPT-2 (Radford et al. 2019)."""

from collections.abc import Mapping

from torch import Tensor, nn

from variants.base import ModelShape, NoOptions, Positional
from variants.conversion import ConvertedTensor


class Learned(Positional[NoOptions]):
    """Embeddings of positions 0 to `seq_len` - 1; later positions are undefined."""

    title = "learned"

    extrapolates = False

    def __init__(self, shape: ModelShape, options: NoOptions) -> None:
        super().__init__(shape, options)
        self.wpe = nn.Embedding(shape.seq_len, shape.n_embd)

    def embed(self, x_BTC: Tensor, positions_T: Tensor) -> Tensor:
        """Add the vectors of the positions."""
        y_BTC: Tensor = x_BTC + self.wpe(positions_T)
        return y_BTC

    def load_from(
        self, source_tensors: Mapping[str, Tensor], initial_tensors: Mapping[str, Tensor]
    ) -> dict[str, ConvertedTensor]:
        """Load the table, or the beginning of a longer one."""
        n_source = len(source_tensors.get("wpe.weight", ()))
        n = len(initial_tensors["wpe.weight"])
        if n_source <= n:
            return super().load_from(source_tensors, initial_tensors)
        origin = f"converted: the first {n} of {n_source} positions"
        return {"wpe.weight": ConvertedTensor(source_tensors["wpe.weight"][:n], origin)}
