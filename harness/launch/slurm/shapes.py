"""Divide runs over array jobs and their elements; pure.

Runs of one shape are the elements of one array job, or of several if it would exceed Slurm's
MaxArraySize. Elements have the order of the runs: the blocks of seeds one after the other, each
block in its random order.

An element trains several runs if that saves starts and delays none. With `per_element = "auto"` it
holds consecutive runs of at most 10 minutes of predicted time in all, and there are at least as
many elements as fit at once, of about equal time. Without knowledge of how many fit, or if all runs
fit at once, each element holds one run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from harness.launch.slurm.commands import NodeEntry
from harness.results.job_shape import shape_of
from harness.results.records import JobShape, RunSpec, SlurmSettings

MAX_ELEMENT_S = 600.0
START_S = 15.0  # of a run: processes, model, data
# FLOP/s that all but the slowest machines exceed: of a core, and of a GPU.
CORE_RATE = 2e9
GPU_RATE = 1e12

ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class ArrayJob:
    """An array job to submit: the runs of each of its elements."""

    shape: JobShape
    elements: list[list[RunSpec]]


def plan_jobs(
    specs: Sequence[RunSpec],
    settings: SlurmSettings,
    max_array_size: int,
    nodes: Sequence[NodeEntry] | None,
    seconds_of: Callable[[RunSpec], float],
) -> list[ArrayJob]:
    """Return the array jobs of runs, each run in exactly one element.

    `nodes` are those that the jobs may use, None if they are not known. `seconds_of` predicts the
    time of a run.

    Raises:
        ValueError: a run does not divide over nodes.
    """
    by_shape: dict[JobShape, list[RunSpec]] = {}
    for spec in specs:
        by_shape.setdefault(shape_of(spec, settings), []).append(spec)
    jobs = []
    for shape, runs in by_shape.items():
        if settings.per_element == "auto":
            n_parallel = parallel_elements(shape, settings, nodes)
            elements = pack(runs, seconds_of, n_parallel)
        else:
            elements = _chunks(runs, settings.per_element)
        for part in _chunks(elements, max_array_size):
            jobs.append(ArrayJob(shape, part))
    return jobs


def pack(
    specs: Sequence[RunSpec], seconds_of: Callable[[RunSpec], float], n_parallel: int | None
) -> list[list[RunSpec]]:
    """Return consecutive runs in groups, as the module states; `n_parallel` groups fit at once."""
    if n_parallel is None or len(specs) <= n_parallel:
        return [[spec] for spec in specs]
    seconds = [seconds_of(spec) for spec in specs]
    share_s = sum(seconds) / n_parallel
    elements: list[list[RunSpec]] = []
    before_s = 0.0  # of all runs before this one
    filled_s = 0.0  # of the newest element
    newest_share = -1
    for spec, run_s in zip(specs, seconds, strict=True):
        # The middle of the run decides which of the equal shares of all time it belongs to.
        share = int((before_s + run_s / 2) / share_s)
        if share != newest_share or filled_s + run_s > MAX_ELEMENT_S:
            elements.append([])
            filled_s = 0.0
            newest_share = share
        elements[-1].append(spec)
        before_s += run_s
        filled_s += run_s
    return elements


def parallel_elements(
    shape: JobShape, settings: SlurmSettings, nodes: Sequence[NodeEntry] | None
) -> int | None:
    """Return how many elements of a shape run at once; None if neither setting nor nodes say it."""
    if nodes is None:
        return settings.max_parallel
    n_cpus = shape.processes_per_node * shape.cpus_per_process
    n_slots = 0
    for node in {node.name: node for node in nodes}.values():
        fitting = 1 if settings.takes_whole_nodes else max(1, node.cpus // n_cpus)
        if shape.gpus_per_node and settings.gpus_per_node:
            fitting = min(fitting, settings.gpus_per_node // shape.gpus_per_node)
        n_slots += fitting
    n_parallel = max(1, n_slots // shape.n_nodes)
    return min(n_parallel, settings.max_parallel or n_parallel)


def predicted_seconds(spec: RunSpec, settings: SlurmSettings) -> float:
    """Return the time of a run at a rate that all but the slowest machines exceed, and its start.

    FLOPs that are not known count as too many to share an element.
    """
    if spec.train.device == "cuda":
        rate = GPU_RATE * spec.n_devices
    else:
        rate = CORE_RATE * spec.launch.world_size * settings.cpus_per_process
    return START_S + (spec.total_flops / rate or MAX_ELEMENT_S)


def node_types(nodes: Sequence[NodeEntry]) -> dict[str, list[str]]:
    """Return the distinct hardware of nodes, in words, with the names of its nodes."""
    types: dict[str, dict[str, None]] = {}
    for node in nodes:
        parts = [f"{node.cpus} cores", node.gres, node.features]
        types.setdefault(", ".join(part for part in parts if part), {})[node.name] = None
    return {words: list(names) for words, names in types.items()}


def _chunks(items: Sequence[ItemT], size: int) -> list[list[ItemT]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
