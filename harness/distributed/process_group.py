"""The processes of one run: who this one is, and what they tell each other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class DistributedContext:
    """Which of the run's processes we are, and on which device; `replication` neighbours see the same sequences."""

    rank: int
    world_size: int
    device: torch.device
    replication: int = 1

    @property
    def data_parallel_rank(self) -> int:
        """Return which of `data_parallel_size` shares of the sequences this rank sees."""
        return self.rank // self.replication

    @property
    def data_parallel_size(self) -> int:
        """Return into how many shares the sequences of a step are divided."""
        return self.world_size // self.replication

    @property
    def is_first(self) -> bool:
        """Tell whether this is rank 0, which writes what is the same on all."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Return the sum over all ranks of each value, in float64."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, by rank."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values


@contextmanager
def join(device: str) -> Iterator[DistributedContext]:
    """Join the process group that torchrun's environment names: nccl and one GPU a rank on CUDA, gloo on a CPU.

    On CUDA gloo serves what lies on the CPU, as the state of a model that is kept there does.
    `OMP_NUM_THREADS` gives the number of threads, also where torch was loaded before it was set.
    """
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    cuda = device == "cuda"
    place = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(place)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo", device_id=place if cuda else None
    )
    try:
        yield DistributedContext(dist.get_rank(), dist.get_world_size(), place)
    finally:
        dist.destroy_process_group()
