"""The nodes, processes and devices that a run asks Slurm for; pure arithmetic."""

from harness.results.records import JobShape, RunSpec, SlurmSettings


def shape_of(spec: RunSpec, settings: SlurmSettings) -> JobShape:
    """Return the shape of a run's job.

    Raises:
        ValueError: the run does not divide over nodes of these settings.
    """
    if spec.train.device == "cuda":
        return gpu_shape(spec.launch.world_size, spec.n_devices, settings)
    return cpu_shape(spec.launch.world_size, settings)


def gpu_shape(world_size: int, n_devices: int, settings: SlurmSettings) -> JobShape:
    """Return the shape of a run on GPUs: one node as far as its GPUs suffice, else whole nodes.

    Raises:
        ValueError: the GPUs are not those of whole nodes, or the processes do not divide over them.
    """
    per_node = settings.gpus_per_node
    if per_node is None:
        raise ValueError("missing; state the number of GPUs of a node")
    if n_devices <= per_node:
        return _shape(1, world_size, n_devices, settings)
    n_nodes = n_devices // per_node
    if n_devices % per_node:
        allowed = f"{n_nodes * per_node}, {(n_nodes + 1) * per_node}"
        raise ValueError(
            f"{n_devices} GPUs are not those of whole nodes with {per_node}; "
            f"the nearest that are: {allowed}"
        )
    if world_size % n_nodes:
        raise ValueError(
            f"{n_devices} GPUs of {n_nodes} nodes with {per_node} need processes on each node, and "
            f"the run has {world_size}; allowed: at most {per_node} GPUs"
        )
    return _shape(n_nodes, world_size // n_nodes, per_node, settings)


def cpu_shape(world_size: int, settings: SlurmSettings) -> JobShape:
    """Return the shape of a run on CPUs: one node, unless `processes_per_node` is less.

    Raises:
        ValueError: the processes do not divide over nodes.
    """
    per_node = settings.processes_per_node or world_size
    if world_size <= per_node:
        return _shape(1, world_size, 0, settings)
    n_nodes = world_size // per_node
    if world_size % per_node:
        allowed = f"{n_nodes * per_node}, {(n_nodes + 1) * per_node}"
        raise ValueError(
            f"{world_size} processes do not divide over nodes with {per_node}; "
            f"the nearest that do: {allowed}"
        )
    return _shape(n_nodes, per_node, 0, settings)


def _shape(n_nodes: int, n_processes: int, n_gpus: int, settings: SlurmSettings) -> JobShape:
    return JobShape(
        n_nodes=n_nodes,
        processes_per_node=n_processes,
        gpus_per_node=n_gpus,
        cpus_per_process=settings.cpus_per_process,
    )
