"""Distributed context: rank, world size, device, and the collectives that the loop uses."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class DistributedContext:
    """Rank, world size and device of this process.

    Each group of `model_parallel_size` consecutive ranks computes the same sequences together.
    """

    rank: int
    world_size: int
    device: torch.device
    model_parallel_size: int = 1

    @property
    def data_parallel_rank(self) -> int:
        """Return the index of this rank's slice of each step's sequences."""
        return self.rank // self.model_parallel_size

    @property
    def data_parallel_size(self) -> int:
        """Return the number of slices that a step's sequences are divided into."""
        return self.world_size // self.model_parallel_size

    @property
    def is_first(self) -> bool:
        """Return whether this is rank 0, which writes the files that all ranks share."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Return the sum over all ranks of each value, in float64."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, by rank."""
        values: list[T] = [value] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        self.gather(None)


@contextmanager
def join(device: str) -> Iterator[DistributedContext]:
    """Join the process group that torchrun's environment describes.

    CUDA uses NCCL with one GPU per rank, and gloo for tensors that a parallelism keeps on the CPU.
    A CPU run uses gloo. `OMP_NUM_THREADS` sets the number of threads even if torch was imported
    before the variable was set.
    """
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if device == "cuda":
        gpu = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(gpu)
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=gpu)
        own_device = gpu
    else:
        dist.init_process_group("gloo")
        own_device = torch.device("cpu")
    try:
        yield DistributedContext(dist.get_rank(), dist.get_world_size(), own_device)
    finally:
        dist.destroy_process_group()
