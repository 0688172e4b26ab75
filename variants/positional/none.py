"""No positional encoding: the causal mask suffices to learn order (Haviv et al. 2022)."""

from variants.base import NoOptions, Positional


class NoPosition(Positional[NoOptions]):
    """The identity on embeddings, queries, keys and scores."""

    title = "no positions"
