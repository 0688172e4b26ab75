"""Whether the times and the memory of two runs may be compared: by machine, slot and software.

A slot is a run's part of its machine: cores, and threads for each process. If each entry has a
machine of its own, no number of seeds distinguishes entries from machines. Runs of one seed on one
machine are comparable, whichever machine other seeds use. Fields that neither run has recorded
count as equal.

A batch system places each run on any node, so that the runs of a seed need only nodes of one type
(processor, cores, GPU): differences between nodes of a type are part of the spread over seeds. All
seeds then need the same type. Runs that share their machine with others have no comparable times.
A run with a timing run (`RunData.for_speed`) is compared by that one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from harness.analysis.dataset import Entry, StudyResults
from harness.results.records import Environment
from harness.results.records.caveats import Caveat
from harness.results.run_data import RunData

Reason = Callable[[RunData, RunData], str | None]

HOST = {"host": "host"}
NODE_TYPE = {"cpu": "processor", "cores": "number of cores", "gpu": "GPU"}
SOFTWARE = {"torch": "PyTorch", "cuda": "CUDA"}
GPU_ONLY = {"gpu": "GPU"}
SHARED = "shared machine"


# -- times ----------------------------------------------------------------------------------------


def speed_reason(run: RunData, base: RunData) -> str | None:
    """Return why the times of two runs cannot be compared, None if they can."""
    run = run.for_speed
    base = base.for_speed
    return _joined([*_hardware_differences(run, base), *_differences(run, base, SOFTWARE)])


def train_time_reason(run: RunData, base: RunData) -> str | None:
    """Return why the sums of step times of two runs cannot be compared, None if they can.

    A compiled run that resumes compiles again, which the sum includes. Timing runs do not count.
    """
    reasons = [*_hardware_differences(run, base), *_differences(run, base, SOFTWARE)]
    for one, other in ((run, base), (base, run)):
        is_compiled = one.env is not None and bool(one.env.compile)
        if is_compiled and _n_resumed(one) > _n_resumed(other):
            reasons.append(f"{one.run_id} was resumed and compiled again")
    return _joined(reasons)


def hardware_reason(run: RunData, base: RunData) -> str | None:
    """Return why the times cannot be compared if versions of software are part of the question."""
    return _joined(_hardware_differences(run.for_speed, base.for_speed))


def device_reason(run: RunData, base: RunData) -> str | None:
    """Return why peaks of memory cannot be compared if software is part of the question."""
    return _joined(_differences(run, base, GPU_ONLY))


def memory_reason(run: RunData, base: RunData) -> str | None:
    """Return why the peaks of memory cannot be compared, None if they can.

    On a CPU the peak is counted from the tensors. On a GPU it is the allocator's, with the
    workspaces of kernels, which depend on the GPU and the software.
    """
    names = GPU_ONLY
    if run.env and base.env and run.env.gpu and base.env.gpu:
        names = GPU_ONLY | SOFTWARE
    return _joined(_differences(run, base, names))


def reasons_by_seed(entry: Entry, base: Entry, reason: Reason) -> dict[int, str | None]:
    """Return the reason for each seed that both entries have done."""
    base_runs = {run.seed: run for run in base.done}
    mixed = None
    if reason in (speed_reason, train_time_reason, hardware_reason):
        mixed = _mixed_node_types([run.for_speed for run in (*entry.done, *base.done)])
    found = {}
    for run in entry.done:
        if run.seed in base_runs:
            own = reason(run, base_runs[run.seed])
            found[run.seed] = _joined([text for text in (own, mixed) if text])
    return found


def comparable_runs(
    entry: Entry, base: Entry, reason: Reason
) -> tuple[list[RunData], list[RunData]]:
    """Return the runs of both entries of the seeds that both have done and may compare."""
    found = reasons_by_seed(entry, base, reason)
    seeds = {seed for seed, why in found.items() if why is None}
    runs = [run for run in entry.done if run.seed in seeds]
    return runs, [run for run in base.done if run.seed in seeds]


def compare_speeds(entry: Entry, base: Entry, reason: Reason = speed_reason) -> str | None:
    """Return why no seed's times can be compared; None if those of a seed can, or none is common.

    The runs of one seed on one machine are comparable, also if other seeds used another machine.
    """
    found = reasons_by_seed(entry, base, reason)
    if not found or None in found.values():
        return None
    return _joined([text for text in found.values() if text])


def have_equal_machines(entry: Entry, base: Entry, reason: Reason = speed_reason) -> bool:
    """Return whether times over all seeds of one entry are comparable with those of another.

    So that no entry has more seeds on a faster machine, all runs used one machine, or each seed is
    done in both and used one machine for both.
    """
    if not entry.done or not base.done:
        return True
    first = base.done[0]
    if all(reason(run, first) is None for run in (*entry.done, *base.done)):
        return True
    found = reasons_by_seed(entry, base, reason)
    seeds = {run.seed for run in (*entry.done, *base.done)}
    return found.keys() == seeds and not any(found.values())


def on_equal_machines(
    entries: Sequence[Entry], base: Entry | None, reason: Reason = speed_reason
) -> list[Entry]:
    """Return the entries whose times over all seeds are comparable with the baseline's.

    Without a baseline that is done, with those of the first entry.
    """
    done = [entry for entry in entries if entry.done]
    if not done:
        return []
    reference = base if base is not None and base.done else done[0]
    return [entry for entry in done if have_equal_machines(entry, reference, reason)]


def _n_resumed(run: RunData) -> int:
    return len(run.probes.resumed_at) if run.probes else 0


def _mixed_node_types(runs: Sequence[RunData]) -> str | None:
    """Return the types of nodes that a batch system used, None if there is one at most."""
    types = set()
    for run in runs:
        if run.env is not None and run.env.job is not None:
            values = [getattr(run.env, field) for field in NODE_TYPE]
            types.add(", ".join("none" if value is None else str(value) for value in values))
    if len(types) <= 1:
        return None
    return f"the seeds ran on {len(types)} types of nodes ({'; '.join(sorted(types))})"


def _hardware_differences(run: RunData, base: RunData) -> list[str]:
    are_jobs = run.env and base.env and run.env.job is not None and base.env.job is not None
    found = _differences(run, base, NODE_TYPE if are_jobs else HOST | NODE_TYPE)
    if not found and run.env and base.env:
        found = _slot_differences(run.env, base.env)
    if run.shares_machine or base.shares_machine:
        found.append(SHARED)
    for one in (run, base):
        if one.env and one.env.earlier_machines and _n_resumed(one):
            machines = ", ".join([*one.env.earlier_machines, one.env.machine])
            found.append(f"{one.run_id} was resumed on another machine ({machines})")
    return found


def _differences(run: RunData, base: RunData, names: Mapping[str, str]) -> list[str]:
    if run.env is None and base.env is None:
        return []
    if run.env is None or base.env is None:
        return ["the machine of one of the two is unknown"]
    found = []
    for field, name in names.items():
        values = [getattr(env, field) for env in (run.env, base.env)]
        if values[0] != values[1]:
            shown = ", ".join("none" if value is None else str(value) for value in values)
            found.append(f"other {name} ({shown})")
    return found


def _slot_differences(env: Environment, base: Environment) -> list[str]:
    """Return the differences in the cores and threads of two runs on one machine.

    Processes share the cores of a slot, so that numbers of threads differ between parallelisms.
    """
    if env.world_size == base.world_size and env.n_nodes != base.n_nodes:
        return [f"other number of nodes ({env.n_nodes}, {base.n_nodes})"]
    cores = (env.usable_cores, base.usable_cores)
    if None not in cores and cores[0] != cores[1]:
        return [f"other number of usable cores ({cores[0]}, {cores[1]})"]
    low, high = _cores_of(env)
    base_low, base_high = _cores_of(base)
    if low <= base_high and base_low <= high:
        return []
    shown = [f"{one.world_size or 1} x {one.threads or 1}" for one in (env, base)]
    return [f"other slot (processes x threads: {', '.join(shown)})"]


def _cores_of(env: Environment) -> tuple[float, float]:
    """Return the smallest and the largest number of cores that give a process its threads."""
    if env.threads is None:
        return 1, float("inf")
    n_processes = env.world_size or 1
    low = env.threads * n_processes if env.threads > 1 else 1
    return low, env.threads * n_processes + n_processes - 1


def _joined(reasons: Sequence[str]) -> str | None:
    return "; ".join(dict.fromkeys(reasons)) or None


# -- caveats --------------------------------------------------------------------------------------


def caveats(study: StudyResults) -> Iterator[Caveat]:
    """Yield a caveat for entries on other machines than their baseline, and for shared machines."""
    for entry in study.entries:
        base = study.baseline_of(entry)
        if base is None:
            continue
        found = reasons_by_seed(entry, base, speed_reason)
        excluded = [seed for seed, reason in found.items() if reason and reason != SHARED]
        if excluded:
            reasons = _joined([text for text in found.values() if text])
            seeds = ", ".join(map(str, excluded))
            which = f"of seed {seeds}" if len(excluded) < len(found) else "of any seed"
            yield Caveat(
                kind="other-hardware",
                entry=entry.label,
                message=f"{reasons}; no times {which} are compared with those of {base.label}",
            )
    for entry in study.entries:
        n_shared = sum(run.for_speed.shares_machine for run in entry.done)
        if n_shared:
            yield Caveat(
                kind="shared-machine",
                entry=entry.label,
                message=f"{n_shared} of {len(entry.done)} runs trained next to other runs on their "
                'machine, so their times are not compared; `[launch] timed = "exclusive"` '
                "measures them one by one",
            )
