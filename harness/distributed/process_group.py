"""Distributed context: rank, world size, device, and the collectives that the loop uses."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")

DEFAULT_TIMEOUT = timedelta(minutes=30)  # PyTorch's, of gloo
NO_TIMEOUT = timedelta(days=365)
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}  # by the type of a rank's device


class Store(Protocol):
    """The method of a `torch.distributed` store, which PyTorch exports without a type."""

    def add(self, key: str, amount: int) -> int:
        """Add to the number of a key, at first 0; return the sum without waiting."""


@dataclass(frozen=True)
class DistributedContext:
    """Rank, world size and device of this process.

    Each group of `model_parallel_size` consecutive ranks computes the same sequences together.
    `store` is a connection of its own to the store of the process group, None if it has none.
    The collectives are those of `group`, of the default group if it is None.
    """

    rank: int
    world_size: int
    device: torch.device
    model_parallel_size: int = 1
    store: Store | None = field(default=None, compare=False)
    group: dist.ProcessGroup | None = field(default=None, compare=False)

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
        dist.all_reduce(total, group=self.group)
        return [float(value) for value in total.tolist()]

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, by rank."""
        values: list[T] = [value] * self.world_size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def of_thread(self, stall_timeout_s: float | None) -> "DistributedContext":
        """Return the context of another thread than the main one; every rank calls this.

        It has a process group of its own, of gloo: collectives of two threads in one group would
        be paired at random. Its tensors are on the CPU.
        """
        group = dist.new_group(backend="gloo", timeout=collective_timeout(stall_timeout_s))
        return replace(self, device=torch.device("cpu"), group=group)

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        self.gather(None)


@contextmanager
def join(
    device: str, stall_timeout_s: float | None = None, network_interface: str | None = None
) -> Iterator[DistributedContext]:
    """Join the process group that torchrun's environment describes.

    CUDA uses NCCL with one GPU per rank, and gloo for tensors that a parallelism keeps on the CPU.
    A CPU run uses gloo. `OMP_NUM_THREADS` sets the number of threads even if torch was imported
    before the variable was set. `network_interface` is that of the connections between ranks.

    After an exception the group is left open: the other ranks must not see a closed connection
    before this one has recorded the cause. The end of the process closes it.
    """
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if network_interface is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = network_interface
        os.environ["NCCL_SOCKET_IFNAME"] = network_interface
    timeout = collective_timeout(stall_timeout_s)
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    own_device = device_of_rank(device, os.environ)
    uses_gpu = own_device.type == "cuda"
    if uses_gpu:
        torch.cuda.set_device(own_device)
    dist.init_process_group(
        BACKENDS[own_device.type],
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=timeout,
        device_id=own_device if uses_gpu else None,
    )
    yield DistributedContext(rank, world_size, own_device, store=store.clone())
    dist.destroy_process_group()


def device_of_rank(device: str, environment: Mapping[str, str]) -> torch.device:
    """Return the device of a rank: the GPU with the rank's number on its host, or the CPU."""
    if device == "cuda":
        return torch.device("cuda", int(environment["LOCAL_RANK"]))
    return torch.device("cpu")


def collective_timeout(stall_timeout_s: float | None) -> timedelta:
    """Return the time limit of a collective: longer than that of a run without progress.

    A collective may wait while the run progresses, for example when rank 0 writes a checkpoint.
    """
    if stall_timeout_s is None:
        return NO_TIMEOUT
    return max(DEFAULT_TIMEOUT, timedelta(seconds=2 * stall_timeout_s))
