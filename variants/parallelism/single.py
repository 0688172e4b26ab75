"""One process on one device: what all other parallelisms are compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from variants.base import ModelShape, Parallelism, Precision, StepShape


class Single(Parallelism):
    """The model as it is."""

    @dataclass(frozen=True)
    class Options:
        """Parameters: the number of processes, which is 1."""

        nproc: int = 1

    @classmethod
    def check(cls, shape: ModelShape, options: Any) -> Mapping[str, str]:
        """One process is one process."""
        return (
            {}
            if options.nproc == 1
            else {"nproc": f"{options.nproc}: single has one process; use ddp or fsdp"}
        )

    def wrap(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Return the model itself."""
        return model.to_empty(device=device)

    def predicted_bytes_sent(self, model: nn.Module, step: StepShape) -> float:
        """Nothing leaves the process."""
        return 0.0
