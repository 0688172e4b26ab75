"""What a precision's name means: the type of stored numbers, and where matrix products are computed in it."""

from contextlib import AbstractContextManager

import torch


def dtype_of(precision: str) -> torch.dtype:
    """Return the type that `fp32` or `bf16` stands for."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Compute matrix products in bf16 where `precision` asks for it; losses and norms stay in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
