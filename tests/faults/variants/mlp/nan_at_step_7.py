"""Not finite in the seventh training step.

at run time: step 7, mlp
"""

from variants.mlp.gelu import Gelu


class SeventhStep(Gelu):
    n_steps = 0

    def forward(self, x_BTC):
        y_BTC = super().forward(x_BTC)
        if self.training and x_BTC.requires_grad and not x_BTC.is_meta:
            self.n_steps += 1
        return y_BTC * float("nan") if self.n_steps == 7 else y_BTC
