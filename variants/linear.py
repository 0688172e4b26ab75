"""Linear layers that read their weights as fast as memory gives them, also where there are few rows: in decoding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_ROWS = 32
# PyTorch leaves fp32 products on a CPU to MKL, whose product of a matrix and a vector reads a third of what memory
# gives, on however many threads. oneDNN's reads twice as much; PyTorch's compiler calls it by this name.
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b: (..., in), (out, in) and (out,) to (..., out)."""
    few = x.numel() <= FEW_ROWS * x.shape[-1] and not torch.is_grad_enabled()
    if few and ONEDNN and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32:
        if not torch.is_autocast_enabled("cpu"):
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """PyTorch's own, by way of `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return x W^T + b."""
        return linear(input, self.weight, self.bias)


def linear_flops(module: nn.Module) -> float:
    """Return the forward FLOPs per token of all linear layers in a module: 2 per multiply-add."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    return 2.0 * sum(layer.weight.numel() for layer in layers)
