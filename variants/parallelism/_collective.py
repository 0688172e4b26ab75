"""Where processes that compute a part of the model together add up what each knows (Shoeybi et al. 2019, figure 3)."""

from typing import Any

import torch
import torch.distributed._functional_collectives as funcol
from torch import Tensor, nn

from variants.linear import linear


class ByInput(nn.Linear):
    """A linear layer that sees some of its inputs; what all processes make of theirs is added up, then the bias."""

    group: Any = None

    def forward(self, input: Tensor) -> Tensor:
        """Return x W^T + b of the whole."""
        y = _Leave.apply(linear(input, self.weight), self.group)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class Enter(torch.autograd.Function):
    """The identity; gradients, of which each process knows what its heads contribute, are added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _sum(grads[0], ctx.group), None


class _Leave(torch.autograd.Function):
    """The sum over processes; its gradient is whole on each of them already."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        return _sum(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def _sum(x: Tensor, group: Any) -> Tensor:
    return funcol.wait_tensor(
        funcol.all_reduce(x.contiguous(), "sum", group)
    )  # which compilation knows
