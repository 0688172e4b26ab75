"""The meaning of a precision's name: storage type and autocast."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def dtype_of(precision: str) -> torch.dtype:
    """Return the torch type of `fp32` or `bf16`."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Compute matrix products in bf16 if `precision` is `bf16`; losses and norms stay in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def product_dtype(operand: Tensor) -> torch.dtype:
    """Return the type in which products with this tensor are computed."""
    device = operand.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return operand.dtype
