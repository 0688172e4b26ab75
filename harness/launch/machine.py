"""Divide this machine among the runs of a launch: its devices, groups of cores, or all of it.

On GPUs as many runs train at once as fit. On a CPU it is one, which may use all cores, unless
`[launch] parallel` divides them.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import Problem, UserError
from harness.launch import gpus
from harness.launch.cores import cores
from harness.launch.open_files import check_open_files
from harness.launch.placement import randomize_within_seed
from harness.launch.reservations import Reservations
from harness.launch.slots import Slot
from harness.results import out_of_memory
from harness.results.host_memory import Capacity, host_capacities
from harness.results.out_of_memory import exceeds_state, explain
from harness.results.records import RunSpec

TOPOLOGY = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Unit:
    """A device or a group of cores, which one run uses at a time; without both, the machine."""

    device: str | None = None
    cores: tuple[int, ...] = ()

    @property
    def names(self) -> list[str]:
        """The names under which it is reserved: its device, or each of its cores."""
        if self.device is not None:
            return [self.device]
        return [f"core-{core}" for core in self.cores]


@dataclass(frozen=True)
class Machine:
    """The units of a launch, and the number of runs that may use them at once, `limit`.

    `threads` is the number of threads of each rank; None: as many as the slot has cores, divided
    among its ranks.
    """

    units: tuple[Unit, ...] = (Unit(),)
    limit: int = 1
    threads: int | None = None

    def width(self, spec: RunSpec) -> int:
        """Return the number of units that a run needs: its devices, of a CPU one for each rank.

        On GPUs, a run on the CPU trains by itself.
        """
        device = self.units[0].device
        if device is not None and spec.train.device == "cpu" and not gpus.is_fake(device):
            return len(self.units)
        return min(spec.n_devices, len(self.units))

    def slot(self, units: Sequence[Unit], is_shared: bool) -> Slot:
        """Return the slot of a run that uses these units."""
        return Slot(
            devices=tuple(unit.device for unit in units if unit.device is not None),
            cores=tuple(core for unit in units for core in unit.cores),
            timing="shared" if is_shared else "exclusive",
            threads=self.threads if is_shared else None,
        )


def find_machine(
    specs: Sequence[RunSpec],
    parallel: int | None,
    reservations: Reservations,
    log: Callable[[str], None],
) -> Machine:
    """Return the units that the runs may use; cores are reserved until the launch ends.

    GPUs on which other processes hold memory are left out, unless CUDA_VISIBLE_DEVICES names them.

    Raises:
        UserError: the machine cannot run that many at once, or a run needs more than is free.
    """
    problems = check_machine(specs, parallel)
    if problems:
        raise UserError(problems)
    devices = _devices(specs)
    if devices:
        free = _without_used(devices, reservations, log)
        widest = max(spec.n_devices for spec in specs)
        if widest > len(free):
            raise UserError(
                f"a run needs {widest} GPUs, and other processes use {len(devices) - len(free)} of "
                f"the {len(devices)} of this machine; end them, or set CUDA_VISIBLE_DEVICES"
            )
        limit = min(parallel or len(free), len(free))
        threads = max(1, cores() // len(free)) if limit > 1 else None
        return Machine(tuple(Unit(device) for device in free), limit, threads)
    if parallel is None or parallel == 1:
        return Machine()
    return _divided_cores(parallel, reservations)


def check_machine(specs: Sequence[RunSpec], parallel: int | None) -> list[Problem]:
    """Return why this machine cannot train the runs as asked for."""
    devices = _devices(specs)
    widest = max((spec.launch.world_size for spec in specs), default=1)
    problems = check_open_files(max(widest, len(devices)) if devices else widest * (parallel or 1))
    if devices:
        for entry, n_needed in {spec.entry: spec.n_devices for spec in specs}.items():
            if n_needed > len(devices):
                message = f"needs {n_needed} devices, and this machine offers {len(devices)}"
                problems.append(Problem(entry, f"{message}; exclude it"))
    elif parallel is not None and parallel > cores():
        problems.append(
            Problem(
                "launch.parallel",
                f"{parallel} runs at once need {parallel} cores, and this process may use "
                f"{cores()}; lower it to at most {cores()}",
            )
        )
    return problems


def check_memory(specs: Sequence[RunSpec]) -> list[Problem]:
    """Return which entries cannot fit this machine, whatever their micro-batches are.

    Their parameters, gradients and optimizer state need more memory than there is.
    """
    devices = _devices(specs)
    device_bytes = None
    if any(spec.train.device == "cuda" for spec in specs):
        device_bytes = gpus.largest_memory(devices)
    host = host_capacities()
    problems = []
    for entry, spec in {spec.entry: spec for spec in specs}.items():
        need = spec.expected.memory
        if need is None:
            continue
        capacities = host
        if spec.train.device == "cuda" and not need.state_on_host:
            if device_bytes is None:
                continue
            capacities = [Capacity("the largest GPU", device_bytes, is_of_each_rank=True)]
        n_ranks = spec.launch.world_size
        lacking = [c for c in capacities if exceeds_state(need, c, n_ranks)]
        if lacking:
            asked = out_of_memory.Machine(n_devices=len(devices) or None)
            message = explain(spec, lacking, asked, n_ranks)
            problems.append(Problem(entry, f"does not fit into memory: {message}; or exclude it"))
    return problems


def order(specs: Sequence[RunSpec], parallel: int | None) -> list[RunSpec]:
    """Return the runs in a random order within each seed that uses this machine well."""
    n_units = len(_devices(specs)) or parallel or 1
    return randomize_within_seed(specs, n_units, lambda spec: spec.n_devices)


def _devices(specs: Sequence[RunSpec]) -> list[str]:
    """Return the devices of this machine; none if the runs use no GPU, or if they are unknown."""
    if gpus.FAKE in os.environ or any(spec.train.device == "cuda" for spec in specs):
        return gpus.visible(os.environ) or []
    return []


def _without_used(
    devices: Sequence[str], reservations: Reservations, log: Callable[[str], None]
) -> list[str]:
    if gpus.FAKE in os.environ or "CUDA_VISIBLE_DEVICES" in os.environ:
        return list(devices)
    used = gpus.in_use()
    free = []
    for device in devices:
        # What another launch has reserved becomes free in time.
        if device in used and reservations.is_free(device):
            log(f"{device} is left out: {used[device]}")
        else:
            free.append(device)
    return free


def _divided_cores(n: int, reservations: Reservations) -> Machine:
    """Return `n` groups of cores, apart from those of other launches."""
    size = cores() // n
    if not hasattr(os, "sched_getaffinity"):
        return Machine((Unit(),) * n, n, threads=size)
    free = [core for core in _usable_cores() if reservations.is_free(f"core-{core}")]
    size = min(size, len(free) // n)
    if size == 0:
        raise UserError(
            f"launch.parallel: {n} runs at once need {n} cores, and other launches leave "
            f"{len(free)} of this machine; lower it, or wait for their end"
        )
    groups = [tuple(free[i * size : (i + 1) * size]) for i in range(n)]
    machine = Machine(tuple(Unit(cores=group) for group in groups), n)
    names = [name for unit in machine.units for name in unit.names]
    if reservations.take(names) is None:
        raise UserError("launch.parallel: another launch has just taken these cores; try again")
    return machine


def _usable_cores() -> list[int]:
    """Return the cores that this process may use; those that share hardware are neighbors."""

    def position(core: int) -> tuple[int, int, int]:
        folder = TOPOLOGY / f"cpu{core}" / "topology"
        try:
            package = int((folder / "physical_package_id").read_text())
            return package, int((folder / "core_id").read_text()), core
        except (OSError, ValueError):
            return 0, core, core

    return sorted(os.sched_getaffinity(0), key=position)
