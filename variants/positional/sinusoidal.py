"""Fixed sines and cosines, added to the embedding (Vaswani et al. 2017, 3.5)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from variants.base import ModelShape, Positional
from variants.validation import Wavelength


@dataclass(frozen=True)
class SinusoidalOptions:
    """The base of the wavelengths, and the amplitude."""

    theta: Wavelength = 10000.0
    scale: float = 0.02 * 2**0.5


class Sinusoidal(Positional[SinusoidalOptions]):
    """PE(pos, 2i) = sin(pos / theta^(2i/C)), PE(pos, 2i+1) = cos(...), times `scale`.

    The paper multiplies the token embeddings by sqrt(C), which gives them about unit variance.
    GPT-2's embeddings have a standard deviation of 0.02 and no such factor, so unscaled sines would
    dominate them. The default scale, 0.02 * sqrt(2), gives the encoding the standard deviation 0.02
    of GPT-2's position vectors.
    """

    Options = SinusoidalOptions
    title = "sinusoidal"

    def __init__(self, shape: ModelShape, options: SinusoidalOptions) -> None:
        super().__init__(shape, options)
        self.n_embd = shape.n_embd
        self.theta = options.theta
        self.scale = options.scale

    @classmethod
    def check(cls, shape: ModelShape, options: SinusoidalOptions) -> Mapping[str, str]:
        """`n_embd` must be even, for pairs of sine and cosine, and `theta` positive."""
        problems = {}
        if shape.n_embd % 2:
            problems[""] = f"sinusoidal needs an even n_embd, got {shape.n_embd}"
        if options.theta <= 0:
            problems["theta"] = f"{options.theta}: must be positive"
        return problems

    def embed(self, x_BTC: Tensor, positions_T: Tensor) -> Tensor:
        """Add the sines and cosines of the positions."""
        i = torch.arange(0, self.n_embd, 2, device=x_BTC.device, dtype=torch.float32)
        frequencies: Tensor = self.theta ** (-i / self.n_embd)
        angle = positions_T.to(torch.float32)[:, None] * frequencies
        encoding_TC = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)
        return x_BTC + (self.scale * encoding_TC).to(x_BTC.dtype)
