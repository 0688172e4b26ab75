"""Rotary embedding: rotate q and k by angles that grow with position (Su et al. 2021)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from variants.base import ModelShape, Positional
from variants.positional._rotation import rotate_pairs
from variants.tensor_parallel import TensorParallelPlan
from variants.validation import Wavelength


@dataclass(frozen=True)
class RopeOptions:
    """The base of wavelengths, the rotated fraction of a head, the pairing, and the scaling."""

    theta: Wavelength = 10000.0
    fraction: float = 1.0
    interleaved: bool = False
    scaling: Literal["none", "linear", "ntk", "yarn"] = "none"
    factor: float = 1.0


class Tables(NamedTuple):
    """The cosines and sines of some positions, for heads of one width and type.

    `positions_T` is kept so that no other tensor has its identity.
    """

    positions_T: Tensor
    cos_TD: Tensor
    sin_TR: Tensor

    def are_of(self, positions_T: Tensor, x: Tensor) -> bool:
        """Return whether they rotate x at these positions, which must be the same object."""
        is_same_kind = self.cos_TD.dtype == x.dtype and self.cos_TD.shape[-1] == x.shape[-1]
        return self.positions_T is positions_T and is_same_kind


class Rope(Positional[RopeOptions]):
    """Rotate pair i of R/2 by position * theta^(-2i/R) (Su et al. 2021, eq. 34).

    R is `fraction` of head_dim. The pairs are (i, i + R/2), as in GPT-NeoX and Llama, or (2i, 2i +
    1), as in GPT-J, if `interleaved`. `scaling` by `factor` extends a model that was trained at 1 /
    `factor` of this length: `linear` divides positions (Chen et al. 2023, eq. 4), `ntk` raises
    theta to theta * factor^(R/(R-2)) (bloc97 2023), `yarn` divides only the slow pairs and sharpens
    the scores (Peng et al. 2023, 3.2 to 3.4).
    """

    Options = RopeOptions
    title = "RoPE"
    prepared: Tables | None = None

    def __init__(self, shape: ModelShape, options: RopeOptions) -> None:
        super().__init__(shape, options)
        self.options = options
        self.trained_len = shape.seq_len / options.factor
        self.sharpness = 1.0
        if options.scaling == "yarn":
            self.sharpness += 0.1 * math.log(options.factor)
        self.score_factor = self.sharpness**2

    @classmethod
    def check(cls, shape: ModelShape, options: RopeOptions) -> Mapping[str, str]:
        """The rotated width must be even; `factor` and `scaling` must be given together."""
        problems = dict(cls.check_rotary(shape.head_dim, options))
        if options.theta <= 0:
            problems["theta"] = f"{options.theta}: must be positive"
        elif options.theta <= 1 and options.scaling == "yarn":
            reason = "must be above 1 with yarn, which distinguishes pairs by wavelength"
            problems["theta"] = f"{options.theta}: {reason}"
        if options.factor < 1 or (options.factor > 1) != (options.scaling != "none"):
            reason = f"must be above 1 with a scaling, 1 without one; scaling is {options.scaling}"
            problems["factor"] = f"{options.factor:g}: {reason}"
        return problems

    @classmethod
    def check_rotary(cls, width: int, options: RopeOptions) -> Mapping[str, str]:
        """The rotated width must be even, positive and at most `width`."""
        problems = {}
        rotated = round(options.fraction * width, 6)  # 0.58 * 100 is 57.99999999999999
        if not 0 < options.fraction <= 1 or rotated % 2:
            problems["fraction" if options.fraction != 1 else ""] = (
                "rope rotates pairs of dimensions: fraction * head_dim = "
                f"{options.fraction:g} * {width} = {rotated:g} "
                "must be even, above 0 and at most head_dim"
            )
        if options.scaling == "ntk" and rotated <= 2:
            problems["scaling"] = "ntk needs more than one pair"
        return problems

    def frequencies(self, R: int, device: torch.device) -> Tensor:
        """Return the angle of each pair between two positions, (R/2,), radians, float32."""
        options = self.options
        theta = options.theta
        if options.scaling == "ntk":
            theta *= options.factor ** (R / (R - 2))
        exponents = -torch.arange(0, R, 2, device=device, dtype=torch.float32) / R
        unscaled: Tensor = theta**exponents
        if options.scaling == "linear":
            return unscaled / options.factor
        if options.scaling == "yarn":
            return self._yarn(R, unscaled)
        return unscaled

    def _yarn(self, R: int, unscaled: Tensor) -> Tensor:
        """Keep pairs with over 32 turns in the trained length, divide those with under one.

        In between, interpolate.
        """

        def pair_with_turns(turns: float) -> float:
            log_wavelength = math.log(self.trained_len / (turns * 2 * math.pi))
            return R * log_wavelength / (2 * math.log(self.options.theta))

        low = max(math.floor(pair_with_turns(32)), 0)
        high = min(math.ceil(pair_with_turns(1)), R - 1)
        i = torch.arange(len(unscaled), device=unscaled.device, dtype=torch.float32)
        slow = ((i - low) / max(high - low, 0.001)).clamp(0, 1)
        return unscaled * (1 - slow) + unscaled / self.options.factor * slow

    def tensor_parallel_plan(self, rank: int, world_size: int) -> TensorParallelPlan:
        """Return an empty plan: all heads rotate by the same angles."""
        return TensorParallelPlan()

    def prepare(self, positions_T: Tensor, width: int, dtype: torch.dtype) -> None:
        """Keep the tables of these positions for all layers, until the next forward pass.

        The backward pass reads them as well if it computes activations again.
        """
        self.prepared = self.tables(positions_T, width, dtype)

    def rotate(self, q_BHTD: Tensor, k_BGTD: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Rotate both by the angles of their positions."""
        tables = self.prepared
        if tables is None or not tables.are_of(positions_T, q_BHTD):
            tables = self.tables(positions_T, q_BHTD.shape[-1], q_BHTD.dtype)
        interleaved = self.options.interleaved
        q_BHTD = rotate_pairs(q_BHTD, tables.cos_TD, tables.sin_TR, interleaved)
        k_BGTD = rotate_pairs(k_BGTD, tables.cos_TD, tables.sin_TR, interleaved)
        return q_BHTD, k_BGTD

    def tables(self, positions_T: Tensor, D: int, dtype: torch.dtype) -> Tables:
        """Return the cosines and sines of all pairs of heads of width D."""
        R = round(self.options.fraction * D)
        angle_TR = positions_T.to(torch.float32)[:, None] * self.frequencies(R, positions_T.device)
        cos_TR = (self.sharpness * angle_TR.cos()).to(dtype)
        sin_TR = (self.sharpness * angle_TR.sin()).to(dtype)
        interleaved = self.options.interleaved
        pairs_TR = cos_TR.repeat_interleave(2, -1) if interleaved else cos_TR.repeat(1, 2)
        cos_TD = F.pad(pairs_TR, (0, D - R), value=1.0)  # dimensions beyond R are not rotated
        return Tables(positions_T, cos_TD, sin_TR)
