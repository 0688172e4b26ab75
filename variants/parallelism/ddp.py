"""Distributed data parallel: replicas, with gradients averaged in buckets (Li et al. 2020)."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from variants.base import ModelShape, Parallelism, Precision, StepShape
from variants.communication import sent_bytes
from variants.validation import Megabytes, Processes, at_least_one


@dataclass(frozen=True)
class DDPOptions:
    """The number of processes, the bucket size in MB, and the compression of gradients."""

    nproc: Processes = 2
    bucket_mb: Megabytes = 25
    compression: Literal["none", "bf16"] = "none"


class DDP(Parallelism[DDPOptions]):
    """`DistributedDataParallel`. Gradients are views of its buckets and are reduced once a step."""

    Options = DDPOptions
    title = "DDP ×{nproc}"

    @classmethod
    def check(cls, shape: ModelShape, options: DDPOptions) -> Mapping[str, str]:
        """`nproc` and `bucket_mb` must be positive."""
        return at_least_one("nproc", options.nproc) | at_least_one("bucket_mb", options.bucket_mb)

    def wrap(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Replicate the model. Nothing is broadcast: each rank samples the same initial values."""
        model.to_empty(device=device)
        wrapped = DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            init_sync=False,
            bucket_cap_mb=self.options.bucket_mb,
        )
        if self.options.compression == "bf16":
            wrapped.register_comm_hook(None, _average_in_bf16)
        return wrapped

    def gradient_sync(self, model: nn.Module, enabled: bool) -> AbstractContextManager[object]:
        """Accumulate local gradients until the last micro-batch."""
        assert isinstance(model, DistributedDataParallel)
        return nullcontext() if enabled else model.no_sync()

    def communication_dtype(self, precision: Precision) -> Precision:
        """Return bf16 if gradients are compressed."""
        return "bf16" if self.options.compression == "bf16" else precision

    def predicted_bytes_sent(self, model: nn.Module, step: StepShape) -> float:
        """One all-reduce of all gradients, after the last micro-batch (Li et al. 2020, 3.2)."""
        bytes_each = 2 if self.options.compression == "bf16" else 4
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = bytes_each * sum(parameter.numel() for parameter in trained)
        return sent_bytes("all_reduce", gradients, self.world_size)


def _average_in_bf16(
    state: object,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """Average a bucket in bf16, as PyTorch's `bf16_compress_hook`, which does not support gloo."""
    buffer = bucket.buffer()
    compressed = buffer.to(torch.bfloat16).div_(dist.get_world_size())
    work = dist.all_reduce(compressed, async_op=True)
    averaged: torch.futures.Future[Tensor] = work.get_future().then(
        lambda done: buffer.copy_(done.value()[0])
    )
    return averaged
