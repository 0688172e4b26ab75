"""Divides by the square root of a state that starts at 0, before it adds the gradient.

refused: not_finite_state.py, steps, is not finite after
"""

import torch

from variants.base import Optimizer
from variants.parameters import StateBytes


class NotFinite(Optimizer):
    def make(self, parameters):
        class _Root(torch.optim.Optimizer):
            @torch.no_grad()
            def step(self, closure=None):
                for group in self.param_groups:
                    for value in group["params"]:
                        square = self.state[value].setdefault("square", torch.zeros_like(value))
                        value.sub_(value.grad / square.sqrt(), alpha=group["lr"])
                        square.add_(value.grad**2)

        return _Root([p.value for p in parameters], {"lr": self.defaults.lr})

    def state_bytes(self, parameter):
        return StateBytes(sharded=4 * parameter.size.numel())
