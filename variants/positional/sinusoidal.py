"""Fixed sines and cosines of geometrically spaced wavelengths, added to the embedding (Vaswani et al. 2017, 3.5)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from variants.base import ModelShape, Positional


class Sinusoidal(Positional):
    """PE(pos, 2i) = sin(pos / theta^(2i/C)), PE(pos, 2i+1) = cos(the same), times `scale`.

    The original multiplies the token embeddings by sqrt(C), which gives them about unit variance. GPT-2's have a
    standard deviation of 0.02 and no such factor, and would drown; so the encoding is scaled down instead. The default
    0.02 * sqrt(2) gives it the standard deviation 0.02 of GPT-2's own position vectors.
    """

    @dataclass(frozen=True)
    class Options:
        """Parameters: the base of the wavelengths, and the amplitude."""

        theta: float = 10000.0
        scale: float = 0.02 * 2**0.5

    def __init__(self, shape: ModelShape, options: Any) -> None:
        super().__init__(shape, options)
        self.n_embd, self.theta, self.scale = shape.n_embd, options.theta, options.scale

    @classmethod
    def check(cls, shape: ModelShape, options: Any) -> Mapping[str, str]:
        """Sines and cosines come in pairs."""
        problems = {}
        if shape.n_embd % 2:
            problems[""] = f"sinusoidal needs an even n_embd, got {shape.n_embd}"
        if options.theta <= 0:
            problems["theta"] = f"{options.theta}: must be positive"
        return problems

    def embed(self, x_BTC: Tensor, positions_T: Tensor) -> Tensor:
        """Add the sines and cosines of the positions."""
        i = torch.arange(0, self.n_embd, 2, device=x_BTC.device, dtype=torch.float32)
        angle = positions_T.to(torch.float32)[:, None] * self.theta ** (-i / self.n_embd)
        encoding_TC = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)
        return x_BTC + (self.scale * encoding_TC).to(x_BTC.dtype)
