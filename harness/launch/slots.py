"""A slot: the devices and cores of a machine that one run uses."""

from dataclasses import dataclass

from harness.results.records.status import Timing


@dataclass(frozen=True)
class Slot:
    """The devices and cores of this machine that one run uses.

    `devices` are values for CUDA_VISIBLE_DEVICES; empty: it is not changed. `cores` are the numbers
    of the cores to which the ranks are pinned; empty: they may use all cores of this process.
    `threads` are those of each rank; None: the cores divided among the ranks.
    `timing` is `shared` if another run may run on this machine at the same time.
    """

    devices: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()
    timing: Timing = "exclusive"
    threads: int | None = None
