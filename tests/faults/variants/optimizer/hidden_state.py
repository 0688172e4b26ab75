"""Counts its steps outside of the state, so that a resumed run starts over.

refused: hidden_state.py, resume, differs after resuming
"""

import torch

from variants.optimizer.lion import Lion


class HiddenState(Lion):
    def make(self, parameters):
        made = super().make(parameters)
        made.n_steps = 0

        def scale(optimizer, *_):
            made.n_steps += 1
            with torch.no_grad():
                for group in optimizer.param_groups:
                    for value in group["params"]:
                        value.mul_(1 - group["lr"] / made.n_steps)

        made.register_step_post_hook(scale)
        return made
