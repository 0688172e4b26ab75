"""Explain a lack of memory: what a run needs, what there is, and which settings need less."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.results.host_memory import Capacity
from harness.results.records import MemoryNeed, RunSpec

GIB = 2**30
MIB = 2**20
FP32_BYTES = 4
LOSS_CHUNK = 512  # tokens: a smaller one saves little and costs time
MIN_LOSS_CHUNK = 128
MIN_LOGITS_FRACTION = 1 / 16  # of the memory, from which a smaller chunk is worth naming
FEWER_RUNS = "fewer runs at once: launch.parallel = 1"


@dataclass(frozen=True)
class Machine:
    """What decides, besides a run's settings, which other settings would need less memory.

    `n_devices` is the number of devices that a run may use; None: unknown. `has_bf16`: the device
    computes in bf16. `is_shared`: other runs may train on the machine at the same time.
    """

    n_devices: int | None = None
    has_bf16: bool = True
    is_shared: bool = False


def explain(
    spec: RunSpec,
    capacities: Sequence[Capacity],
    machine: Machine,
    n_local_ranks: int = 1,
) -> str:
    """Return the predicted memory, the available one, and the settings that need less, in a line.

    `n_local_ranks` is the number of ranks that share a capacity, unless it is one of each rank.
    """
    need = spec.expected.memory
    available = f"available: {', '.join(map(describe_capacity, capacities))}"
    if need is None:
        return f"{describe_need(need)}; {available}"
    exceeds = any(exceeds_state(need, capacity, n_local_ranks) for capacity in capacities)
    found = list(remedies(spec, need, machine, exceeds))
    return f"{describe_need(need, n_local_ranks)}; {available}; {describe_remedies(found)}"


def explain_host(
    spec: RunSpec,
    capacities: Sequence[Capacity],
    machine: Machine,
    n_local_ranks: int = 1,
) -> str:
    """Return `explain` for the memory of CPUs, of which a run on GPUs needs little.

    Of that little, nothing is predicted.
    """
    need = spec.expected.memory
    if spec.train.device != "cuda" or (need is not None and need.state_on_host):
        return explain(spec, capacities, machine, n_local_ranks)
    available = f"available: {', '.join(map(describe_capacity, capacities))}"
    fewer = f", or {FEWER_RUNS}" if machine.is_shared else ""
    return (
        f"CPU memory ran out, of which a run on GPUs has no prediction; {available}; to have more: "
        f'launch.slurm.options = ["--mem=..."] on Slurm{fewer}'
    )


def exceeds_state(need: MemoryNeed, capacity: Capacity, n_ranks: int) -> bool:
    """Return whether parameters, gradients and optimizer state do not fit without activations."""
    n_copies = 1 if capacity.is_of_each_rank else n_ranks
    return n_copies * need.state > capacity.total_bytes


def describe_need(need: MemoryNeed | None, n_ranks: int = 1) -> str:
    """Return the predicted memory by category."""
    if need is None:
        return "predicted: unknown"
    activations = "unknown" if need.activations is None else size(need.activations)
    gathered = f"; gathered parameters {size(need.gathered)}" if need.gathered else ""
    ranks = f" for each of {n_ranks} ranks" if n_ranks > 1 else ""
    place = " in CPU memory" if need.state_on_host else ""
    at_least = "at least " if need.activations is None else ""
    return (
        f"predicted: {at_least}{size(need.total)}{ranks} (parameters, gradients and optimizer "
        f"state {size(need.state)}{place}{gathered}; activations {activations})"
    )


def describe_capacity(capacity: Capacity) -> str:
    """Return the size of a memory, what is free of it, and its name."""
    free = "" if capacity.free_bytes is None else f" ({size(capacity.free_bytes)} free)"
    return f"{size(capacity.total_bytes)}{free} of {capacity.name}"


def describe_remedies(found: Sequence[str]) -> str:
    """Return the settings that need less memory, as part of a message."""
    if not found:
        return "no setting needs less memory: use a smaller model, or more memory"
    return f"to need less: {', or '.join(found)}"


def remedies(
    spec: RunSpec, need: MemoryNeed, machine: Machine, exceeds: bool = False
) -> Iterator[str]:
    """Yield the settings that would need less memory, with their present values.

    Those that are exhausted are left out. If `exceeds`, parameters, gradients and optimizer state
    do not fit by themselves: settings that only affect activations are left out as well.
    """
    if not exceeds:
        yield from _fewer_activations(spec, need, machine)
    yield from _less_state(spec, need, machine, exceeds)
    if machine.is_shared:
        yield FEWER_RUNS


def _fewer_activations(spec: RunSpec, need: MemoryNeed, machine: Machine) -> Iterator[str]:
    train = spec.train
    smaller = smaller_micro_batch(spec, need)
    if smaller is not None:
        yield f"train.micro_batch_size = {smaller} (now {need.micro_batch_size})"
    if train.recompute != "block":
        yield f'train.recompute = "block" (now "{train.recompute}")'
    n_tokens = need.micro_batch_size * spec.model.seq_len
    chunk = min(train.loss_chunk or n_tokens, n_tokens)
    logits_bytes = FP32_BYTES * chunk * spec.model.vocab_size
    if chunk > MIN_LOSS_CHUNK and logits_bytes >= MIN_LOGITS_FRACTION * need.total:
        less = LOSS_CHUNK if chunk > LOSS_CHUNK else max(MIN_LOSS_CHUNK, chunk // 2)
        now = "all" if train.loss_chunk is None else "now"
        yield f"train.loss_chunk = {less} ({now} {chunk})"
    if train.precision == "fp32" and machine.has_bf16:
        yield 'train.precision = "bf16" (now "fp32")'


def _less_state(spec: RunSpec, need: MemoryNeed, machine: Machine, exceeds: bool) -> Iterator[str]:
    train = spec.train
    parameter_bytes = FP32_BYTES * spec.expected.parameters
    n_used = spec.n_devices
    n_ranks = spec.launch.world_size
    is_sharded = need.parameters < parameter_bytes
    # On one CPU, the shards of all ranks together are what one rank holds without them.
    has_more = train.device == "cuda" and (machine.n_devices is None or machine.n_devices > n_used)
    if is_sharded and has_more:
        limit = "" if machine.n_devices is None else f", up to {machine.n_devices}"
        yield f"shards over more processes (now {n_ranks}{limit})"
    elif not is_sharded and (n_used > 1 or has_more):
        n_shards = machine.n_devices if has_more and machine.n_devices else max(2, n_used)
        more = "with more GPUs " if n_used == 1 and machine.n_devices is None else ""
        yield f'{more}parallelism = {{ variant = "fsdp", nproc = {n_shards} }} (shards the state)'
    if exceeds and need.optimizer > 1.5 * need.parameters:
        yield f'optimizer = "lion", whose state is smaller (now {size(need.optimizer)})'
    if exceeds and train.ema_decay is not None:
        yield "no train.ema_decay, whose average is as large as the parameters"


def smaller_micro_batch(spec: RunSpec, need: MemoryNeed) -> int | None:
    """Return the largest valid micro-batch size below the present one; None if it is 1.

    It divides the sequences of a rank in each step, also in those of a ramp.
    """
    train = spec.train
    n_full = train.tokens_per_step
    counts = {tokens * need.n_sequences // n_full for tokens in (*train.ramp_tokens, n_full)}
    for smaller in range(need.micro_batch_size - 1, 0, -1):
        if all(count <= smaller or count % smaller == 0 for count in counts):
            return smaller
    return None


def size(n_bytes: float) -> str:
    """Return a number of bytes in GiB, or in MiB below one."""
    if n_bytes >= GIB:
        return f"{n_bytes / GIB:,.1f} GiB"
    return f"{n_bytes / MIB:,.1f} MiB"
