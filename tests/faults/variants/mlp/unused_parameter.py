"""A parameter that `forward` never uses.

refused: gradients, h.0.mlp, unused
"""

import torch
from torch import nn

from variants.base import InitSpec
from variants.mlp.gelu import Gelu


class Unused(Gelu):
    def __init__(self, shape, options):
        super().__init__(shape, options)
        self.unused = nn.Parameter(torch.empty(3))

    def init_specs(self):
        return {**super().init_specs(), "unused": InitSpec(std=0.02)}
