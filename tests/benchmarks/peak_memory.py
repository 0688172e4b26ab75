"""Peak bytes of live tensors in a training step, counted without computing it."""

import dataclasses
import json
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

# Peaks are counted, not measured; some bytes more are no loss to a user.
TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True)
class Peak:
    """The peak bytes of one benchmark and of its peer, and `ratio`, ours / peer."""

    benchmark: str
    ours_bytes: int
    peer: str
    peer_bytes: int
    ratio: float


def verdict(now: Peak, before: Peak | None) -> str:
    """Return "more" or "less" if ours needs other bytes than in an earlier run, else "same".

    Return "new" without an earlier peak for the same peer.
    """
    if before is None or before.peer != now.peer:
        return "new"
    if now.ours_bytes > before.ours_bytes * (1 + TOLERANCE):
        return "more"
    if now.ours_bytes < before.ours_bytes * (1 - TOLERANCE):
        return "less"
    return "same"


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations return until they are freed; `peak` is the maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = 0
        self.now = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        results = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.add, results)
        return results

    def add(self, tensor: Tensor) -> None:
        """Count the storage of a tensor once, until it is freed."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self.live:
            return
        self.live[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.free, key)

    def free(self, key: int) -> None:
        """Forget a storage."""
        self.now -= self.live.pop(key)


def peak_bytes(make_step: Callable[[], Callable[[], object]]) -> int:
    """Return the peak of the second step, which has the state of an optimizer, on fake tensors."""
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as counter:
        step = make_step()
        step()
        counter.peak = counter.now
        step()
    return counter.peak


def write(file: Path, peaks: Iterable[Peak]) -> None:
    """Write a list of objects, one for each benchmark, in bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    records = [dataclasses.asdict(peak) for peak in peaks]
    file.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
