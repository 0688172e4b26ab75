"""Not finite from the seventh training step on, which no check before the start can see.

at run time: step 6, h.0.mlp
"""

import os

import torch

from variants.mlp.gelu import Gelu


class SeventhStep(Gelu):
    n_steps = 0

    def forward(self, x_BTC):
        y_BTC = super().forward(x_BTC)
        if "RANK" in os.environ and self.training and torch.is_grad_enabled():
            self.n_steps += 1
        return y_BTC * float("nan") if self.n_steps >= 7 else y_BTC
