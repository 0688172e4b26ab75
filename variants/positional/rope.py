"""Rotary embedding: turn q and k by angles that grow with position, so that scores see distances (Su et al. 2021)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from variants.base import ModelShape, Positional
from variants.tensor_parallel import TensorParallelPlan


class Rope(Positional):
    """Pair i of R/2 pairs turns by position * theta^(-2i/R) (Su et al. 2021, eq. 34), R = `fraction` of head_dim.

    Pairs are (i, i + R/2), as in GPT-NeoX and Llama, or (2i, 2i + 1), as in GPT-J, if `interleaved`. `scaling` by
    `factor` is for a model that goes on from one trained at 1 / `factor` of this length: `linear` divides positions
    (Chen et al. 2023, eq. 4), `ntk` raises theta to theta * factor^(R/(R-2)) (bloc97 2023), `yarn` divides the slow
    pairs alone and makes scores sharper (Peng et al. 2023, 3.2 to 3.4).
    """

    @dataclass(frozen=True)
    class Options:
        """Parameters: wavelengths' base, the part of each head that turns, which dimensions pair, and scaling."""

        theta: float = 10000.0
        fraction: float = 1.0
        interleaved: bool = False
        scaling: Literal["none", "linear", "ntk", "yarn"] = "none"
        factor: float = 1.0

    def __init__(self, shape: ModelShape, options: Any) -> None:
        super().__init__(shape, options)
        self.options, self.trained_len = options, shape.seq_len / options.factor

    @classmethod
    def check(cls, shape: ModelShape, options: Any) -> Mapping[str, str]:
        """Dimensions turn in pairs; a factor is for a scaling and a scaling needs one."""
        problems = dict(cls.check_rotary(shape.head_dim, options))
        if options.theta <= 0:
            problems["theta"] = f"{options.theta}: must be positive"
        elif options.theta <= 1 and options.scaling == "yarn":
            problems["theta"] = (
                f"{options.theta}: must be above 1 with yarn, which tells pairs apart by wavelength"
            )
        if options.factor < 1 or (options.factor > 1) != (options.scaling != "none"):
            form = f"above 1 with a scaling, 1 without one; scaling is {options.scaling}"
            problems["factor"] = f"{options.factor:g}: must be {form}"
        return problems

    @classmethod
    def check_rotary(cls, width: int, options: Any) -> Mapping[str, str]:
        """Dimensions turn in pairs."""
        problems, turned = {}, round(options.fraction * width, 6)  # 0.58 * 100 is 57.99999999999999
        if not 0 < options.fraction <= 1 or turned % 2:
            problems["fraction" if options.fraction != 1 else ""] = (
                f"rope turns pairs of dimensions: fraction * head_dim = {options.fraction:g} * {width} = "
                f"{turned:g} must be even, above 0 and at most head_dim"
            )
        if options.scaling == "ntk" and turned <= 2:
            problems["scaling"] = "ntk needs more than one pair"
        return problems

    def frequencies(self, R: int, device: torch.device) -> Tensor:
        """Return by how much each pair turns from one position to the next, (R/2,), radians, float32."""
        o = self.options
        theta = o.theta * o.factor ** (R / (R - 2)) if o.scaling == "ntk" else o.theta
        plain = theta ** (-torch.arange(0, R, 2, device=device, dtype=torch.float32) / R)
        if o.scaling == "linear":
            return plain / o.factor
        return self._yarn(R, plain) if o.scaling == "yarn" else plain

    def _yarn(self, R: int, plain: Tensor) -> Tensor:
        """Keep pairs that turn more than 32 times in the trained length, divide those below once, blend between."""

        def pair_that_turns(times: float) -> float:
            return (
                R
                * math.log(self.trained_len / (times * 2 * math.pi))
                / (2 * math.log(self.options.theta))
            )

        low, high = (
            max(math.floor(pair_that_turns(32)), 0),
            min(math.ceil(pair_that_turns(1)), R - 1),
        )
        i = torch.arange(len(plain), device=plain.device, dtype=torch.float32)
        slow = ((i - low) / max(high - low, 0.001)).clamp(0, 1)
        return plain * (1 - slow) + plain / self.options.factor * slow

    def tensor_parallel_plan(self, rank: int, n: int) -> TensorParallelPlan:
        """All heads turn alike."""
        return TensorParallelPlan()

    def rotate(self, q_BHTD: Tensor, k_BGTD: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Turn both by the angles of their positions."""
        D = q_BHTD.shape[-1]
        R = round(self.options.fraction * D)
        angle_TR = positions_T.to(torch.float32)[:, None] * self.frequencies(R, q_BHTD.device)
        sharper = 1 + 0.1 * math.log(self.options.factor) if self.options.scaling == "yarn" else 1.0
        cos_TR, sin_TR = ((sharper * x).to(q_BHTD.dtype) for x in (angle_TR.cos(), angle_TR.sin()))
        interleaved = self.options.interleaved
        twice_TR = cos_TR.repeat_interleave(2, -1) if interleaved else cos_TR.repeat(1, 2)
        cos_TD = F.pad(twice_TR, (0, D - R), value=1.0)  # what does not turn stays
        return _Turn.apply(q_BHTD, cos_TD, sin_TR, interleaved), _Turn.apply(
            k_BGTD, cos_TD, sin_TR, interleaved
        )


class _Turn(torch.autograd.Function):
    """(x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin); its gradient turns back, which autograd alone would not see."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos_TD: Tensor, sin_TR: Tensor, interleaved: bool) -> Tensor:
        ctx.save_for_backward(cos_TD, sin_TR)
        ctx.interleaved = interleaved
        y, width = x * cos_TD, 2 * sin_TR.shape[-1]
        (x1, x2), (y1, y2) = (_pairs(z[..., :width], interleaved) for z in (x, y))
        y1.addcmul_(x2, sin_TR, value=-1)
        y2.addcmul_(x1, sin_TR)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cos_TD, sin_TR = ctx.saved_tensors
        return _Turn.apply(grads[0], cos_TD, -sin_TR, ctx.interleaved), None, None, None


def _pairs(x: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    """Return views of the first and the second of each pair."""
    if interleaved:
        return x[..., 0::2], x[..., 1::2]
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]
