"""Linear layers that reach memory bandwidth on a CPU when they have few rows, as in decoding.

PyTorch computes fp32 matrix products on a CPU with MKL, whose matrix-vector product reaches a third
of the memory bandwidth, with any number of threads. oneDNN reaches twice as much, but PyTorch has
no public function that calls it. This module is the only one that calls the private operator
`torch.ops.mkldnn._linear_pointwise`, which PyTorch's compiler uses, and falls back to `F.linear` if
the operator does not exist.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_ROWS = 32
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b: (..., in), (out, in) and (out,) to (..., out)."""
    if _prefers_onednn(x, weight):
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return y
    return F.linear(x, weight, bias)


def _prefers_onednn(x: Tensor, weight: Tensor) -> bool:
    few_rows = x.numel() <= MAX_ROWS * x.shape[-1]
    if not (few_rows and HAS_ONEDNN and x.device.type == "cpu") or torch.is_grad_enabled():
        return False
    fp32 = x.dtype == weight.dtype == torch.float32
    return fp32 and not torch.is_autocast_enabled("cpu")


class Linear(nn.Linear):
    """`nn.Linear` computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return x W^T + b."""
        return linear(input, self.weight, self.bias)


def linear_flops(module: nn.Module) -> float:
    """Return the forward FLOPs per token of all linear layers in a module: 2 per multiply-add."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    return 2.0 * sum(layer.weight.numel() for layer in layers)
