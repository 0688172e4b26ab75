"""Rotary embedding: turn q and k by angles that grow with position, so that scores see distances (Su et al. 2021)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from variants.api import Positional, Shape


class Rope(Positional):
    """Pairs (i, i + D/2) turn by position * theta^(-2i/D) (Su et al. 2021, eq. 34; GPT-NeoX's pairing)."""

    @dataclass(frozen=True)
    class Options:
        """Parameters: the base of the wavelengths."""

        theta: float = 10000.0

    def __init__(self, shape: Shape, options: Any) -> None:
        super().__init__(shape, options)
        self.head_dim, self.theta = shape.head_dim, options.theta

    @classmethod
    def check(cls, shape: Shape, options: Any) -> Mapping[str, str]:
        """Dimensions turn in pairs."""
        problems = {}
        if shape.head_dim % 2:
            problems[""] = f"rope needs an even head_dim, n_embd / n_head = {shape.head_dim}"
        if options.theta <= 0:
            problems["theta"] = f"{options.theta}: must be positive"
        return problems

    def rotate(self, q_BHTD: Tensor, k_BGTD: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Turn both by the angles of their positions."""
        i = torch.arange(0, self.head_dim, 2, device=q_BHTD.device, dtype=torch.float32)
        angle = positions_T.to(torch.float32)[:, None] * self.theta ** (-i / self.head_dim)
        cos, sin = angle.cos().to(q_BHTD.dtype), angle.sin().to(q_BHTD.dtype)
        cos_TD, sin_TD = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        return _turn(q_BHTD, cos_TD, sin_TD), _turn(k_BGTD, cos_TD, sin_TD)


def _turn(x: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """(x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), with the minus sign inside `sin_TD`."""
    x1, x2 = x.chunk(2, -1)
    return torch.addcmul(x * cos_TD, torch.cat((x2, x1), -1), sin_TD)
