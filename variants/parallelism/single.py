"""One process on one device, the reference of all other parallelisms."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from variants.base import ModelShape, Parallelism, Precision, StepShape


@dataclass(frozen=True)
class SingleOptions:
    """The number of processes, 1."""

    nproc: int = 1


class Single(Parallelism[SingleOptions]):
    """The unmodified model."""

    Options = SingleOptions
    title = "single"
    precisions = ("fp32", "bf16", "fp8")

    @classmethod
    def check(cls, shape: ModelShape, options: SingleOptions) -> Mapping[str, str]:
        """`nproc` must be 1."""
        if options.nproc == 1:
            return {}
        return {"nproc": f"{options.nproc}: single has one process; use ddp or fsdp"}

    def wrap(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Return the model itself."""
        return model.to_empty(device=device)

    def predicted_bytes_sent(self, model: nn.Module, step: StepShape) -> float:
        """Return 0: there is no communication."""
        return 0.0
