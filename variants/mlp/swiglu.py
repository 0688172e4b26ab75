"""One linear layer gates another: swish(x W) * (x V), then one back (Shazeer 2020, eq. 6)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from variants.base import InitSpec, ModelShape
from variants.linear import Linear
from variants.mlp.gelu import Gelu


class SwiGLU(Gelu):
    """8/3 n_embd wide inside, so that three matrices hold what GPT-2's two do, unless `width` says otherwise.

    W and V are one matrix, so that one product makes both; they are drawn each on its own.
    """

    def __init__(self, shape: ModelShape, options: Any) -> None:
        super().__init__(shape, options)
        self.width = options.width or round(8 * shape.n_embd / 3)
        self.c_fc = Linear(shape.n_embd, 2 * self.width)
        self.c_proj = Linear(self.width, shape.n_embd)

    def init_specs(self) -> dict[str, InitSpec]:
        """As GPT-2's, W and V apart."""
        blocks = (("gate", self.width), ("up", self.width))
        return {**super().init_specs(), "c_fc.weight": InitSpec(std=0.02, blocks=blocks)}

    def activation(self, x: Tensor) -> Tensor:
        """Return swish(gate) * up of the two halves of x."""
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up
