"""A gated linear layer, swish(x W) * (x V), and a projection back (Shazeer 2020, eq. 6)."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from variants.base import InitSpec, ModelShape
from variants.linear import Linear
from variants.mlp.gelu import Gelu, MLPOptions


class SwiGLU(Gelu):
    """SwiGLU, by default 8/3 n_embd wide, with as many weights in three matrices as GPT-2 in two.

    W and V are one matrix, computed by one product, but they are initialized independently.
    """

    title = "SwiGLU"

    def __init__(self, shape: ModelShape, options: MLPOptions) -> None:
        super().__init__(shape, options)
        self.width = options.width or round(8 * shape.n_embd / 3)
        self.c_fc = Linear(shape.n_embd, 2 * self.width, shape.bias)
        self.c_proj = Linear(self.width, shape.n_embd, shape.bias)
        self.init_std = shape.init_std

    def init_specs(self) -> Mapping[str, InitSpec]:
        """Initialize as in GPT-2, W and V independently."""
        blocks = (("gate", self.width), ("up", self.width))
        return {**super().init_specs(), "c_fc.weight": InitSpec(std=self.init_std, blocks=blocks)}

    def activation(self, x: Tensor) -> Tensor:
        """Return swish(gate) * up of the two halves of x."""
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up
