"""Sums over the processes that compute a module together (Shoeybi et al. 2019, figure 3).

They use `torch.distributed._functional_collectives`, which is private: no public all-reduce returns
a new tensor and can be traced by `torch.compile`. This is the only module of the variants that
imports it.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch import Tensor, nn

from variants.linear import linear

Group = dist.ProcessGroup | None


class RowParallelLinear(nn.Linear):
    """A linear layer with some inputs; outputs are summed over processes, then the bias added."""

    group: Group = None

    def forward(self, input: Tensor) -> Tensor:
        """Return x W^T + b of the full layer."""
        y = sum_outputs(linear(input, self.weight), self.group)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _SumGradients(torch.autograd.Function):
    """The identity; gradients are summed, since each process computes those of its heads."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return all_reduce(grads[0], ctx.group), None


class _SumOutputs(torch.autograd.Function):
    """The sum over the processes. The gradient is already complete on each process."""

    @staticmethod
    def forward(ctx: object, x: Tensor, group: Group) -> Tensor:
        return all_reduce(x, group)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


sum_gradients: Callable[[Tensor, Group], Tensor] = _SumGradients.apply
sum_outputs: Callable[[Tensor, Group], Tensor] = _SumOutputs.apply


def all_reduce(x: Tensor, group: Group, operation: Literal["sum", "max"] = "sum") -> Tensor:
    """Return the sum or the maximum of x over the group."""
    assert group is not None
    total: Tensor = funcol.wait_tensor(funcol.all_reduce(x.contiguous(), operation, group))
    return total
