"""Distributed data parallel: the whole model on every rank, gradients averaged in buckets (Li et al. 2020)."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from variants.base import ModelShape, Parallelism, Precision, StepShape
from variants.communication import sent_bytes
from variants.validation import at_least_one


class DDP(Parallelism):
    """`DistributedDataParallel`; gradients are views of its buckets, and travel once a step."""

    @dataclass(frozen=True)
    class Options:
        """Parameters: the number of processes, the megabytes of a bucket, and whether gradients travel as bf16."""

        nproc: int = 2
        bucket_mb: int = 25
        compression: Literal["none", "bf16"] = "none"

    @classmethod
    def check(cls, shape: ModelShape, options: Any) -> Mapping[str, str]:
        """At least one process."""
        return at_least_one("nproc", options.nproc) | at_least_one("bucket_mb", options.bucket_mb)

    def wrap(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Replicate; nothing is broadcast, as every rank draws the same initial values by itself."""
        model.to_empty(device=device)
        wrapped = DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            init_sync=False,
            bucket_cap_mb=self.options.bucket_mb,
        )
        if self.options.compression == "bf16":
            wrapped.register_comm_hook(None, _as_bf16)
        return wrapped

    def gradient_sync(self, model: nn.Module, enabled: bool) -> AbstractContextManager[object]:
        """Keep gradients local until the last micro-batch."""
        assert isinstance(model, DistributedDataParallel)
        return nullcontext() if enabled else model.no_sync()

    def communication_dtype(self, precision: Precision) -> Precision:
        """Gradients are rounded where they travel as bf16."""
        return "bf16" if self.options.compression == "bf16" else precision

    def predicted_bytes_sent(self, model: nn.Module, step: StepShape) -> float:
        """One all-reduce of all gradients, after the last micro-batch (Li et al. 2020, 3.2)."""
        size = 2 if self.options.compression == "bf16" else 4
        gradients = sum(
            size * parameter.numel() for parameter in model.parameters() if parameter.requires_grad
        )
        return sent_bytes("all_reduce", gradients, self.world_size)


def _as_bf16(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """Average a bucket in bf16; PyTorch's `bf16_compress_hook` does the same, and refuses gloo."""
    buffer = bucket.buffer()
    half = buffer.to(torch.bfloat16).div_(dist.get_world_size())
    work = dist.all_reduce(half, async_op=True)
    return work.get_future().then(lambda done: buffer.copy_(done.value()[0]))
