"""No positional encoding: a causal mask alone lets a model tell order (Haviv et al. 2022; Kazemnejad et al. 2023)."""

from variants.base import Positional


class NoPosition(Positional):
    """The identity in all three places."""
