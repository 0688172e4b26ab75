"""Four dense experts, of which the inherited formula counts none.

flagged: flops
"""

import torch
from torch import nn

from variants.base import FeedForward, InitSpec


class Experts(FeedForward):
    def __init__(self, shape, options):
        super().__init__(shape, options)
        self.up = nn.Parameter(torch.empty(4, shape.n_embd, 4 * shape.n_embd))
        self.down = nn.Parameter(torch.empty(4, 4 * shape.n_embd, shape.n_embd))

    def init_specs(self):
        return {"up": InitSpec(std=0.02), "down": InitSpec(std=0.02)}

    def forward(self, x_BTC):
        hidden = torch.einsum("btc,ech->bteh", x_BTC, self.up).relu()
        return torch.einsum("bteh,ehc->btc", hidden, self.down)
