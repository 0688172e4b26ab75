"""One table of steps that must not depend on how they are computed; ranks of all tests run it.

A step has two micro-batches. Its losses and gradients are computed at once by one process, and
again in chunks, recomputed, compiled and sharded, in fp64 and fp32.
"""

import dataclasses
import itertools
from contextlib import ExitStack
from pathlib import Path

import torch

from harness.distributed.process_group import DistributedContext
from harness.distributed.shards import gather_weights
from harness.distributed.torch_internals import DispatchMode
from harness.model.builder import ModelBuilder
from harness.model.initialization import check_same_parameters, init_parameters
from harness.model.loss import Objective
from harness.probes.communication import CommunicationCounter
from harness.results.records import VariantChoice
from harness.training.compilation import compile_blocks, compile_report
from variants import registry
from variants.base import ModelShape, StepShape

# No number of ranks divides the vocabulary. Logits are the largest tensors.
SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=16, seq_len=8, vocab_size=331)
N_SEQUENCES = 8  # of a micro-batch, of all ranks together
N_MICRO_BATCHES = 2
CHUNK = 5  # divides no rank's number of tokens
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
OBJECTIVE = Objective(label_smoothing=0.2, z_loss=0.01)
PARALLELISMS = {
    "single": ("single", {"nproc": 1}),
    "ddp": ("ddp", {"nproc": 2}),
    "zero1": ("zero1", {"nproc": 2}),
    "fsdp": ("fsdp", {"nproc": 2}),
    "fsdp-zero2": ("fsdp", {"nproc": 2, "reshard": False}),
    "tp": ("tp", {"nproc": 2}),
    "hsdp": ("hsdp", {"nproc": 4}),
    "fsdp_tp": ("fsdp_tp", {"nproc": 4}),
    "tp-four": ("tp", {"nproc": 4}),
}


@dataclasses.dataclass(frozen=True)
class Step:
    """How a step is computed; `tied` is another model, and so is another objective."""

    tied: bool = True
    objective: Objective = OBJECTIVE
    chunk: int | None = None
    recompute: str = "none"
    compiled: bool = False
    unequal: bool = False  # whether the gradients of the losses differ

    @property
    def plain(self) -> "Step":
        """The step with the same result."""
        return dataclasses.replace(self, chunk=None, recompute="none", compiled=False)


STEPS = {
    "plain": Step(),
    "chunks": Step(chunk=CHUNK),
    "untied": Step(tied=False),
    "untied chunks": Step(tied=False, chunk=CHUNK),
    "cross-entropy": Step(objective=Objective()),
    "cross-entropy in chunks": Step(objective=Objective(), chunk=CHUNK),
    "unequal": Step(unequal=True),
    "unequal chunks": Step(unequal=True, chunk=CHUNK),
    "attention": Step(recompute="attention"),
    "block": Step(recompute="block"),
    "chunks and block": Step(chunk=CHUNK, recompute="block"),
    "compiled block": Step(chunk=CHUNK, recompute="block", compiled=True),
    "compiled attention": Step(chunk=CHUNK, recompute="attention", compiled=True),
}
COMPILED = ("single", "tp")  # training in test_parallelism compiles all others
EVERY_STEP = ("single", "tp")
OWN_LOSSES_ONLY = ("cross-entropy", "unequal", "untied", "block")  # not by other parallelisms
PLAIN = {name: next(n for n, s in STEPS.items() if s == step.plain) for name, step in STEPS.items()}


def cases(label: str) -> list[tuple[str, torch.dtype]]:
    """Return the steps that a parallelism computes; it takes seconds to compile one."""
    found = []
    n_ranks = PARALLELISMS[label][1]["nproc"]
    for name, dtype in itertools.product(STEPS, TOLERANCES):
        if STEPS[name].compiled and (label not in COMPILED or dtype == torch.float32):
            continue
        if name in OWN_LOSSES_ONLY and label not in EVERY_STEP:
            continue
        if n_ranks < 4 or dtype == torch.float64:
            found.append((name, dtype))
    return found


class Largest(DispatchMode):
    """Keep the number of elements of the largest tensor that an operator returns."""

    n_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor) and type(output) is torch.Tensor:
            self.n_elements = max(self.n_elements, output.numel())
        return output


def micro_batches():
    """Return tokens and targets of each micro-batch, (B, T)."""
    generator = torch.Generator().manual_seed(0)
    size = (N_MICRO_BATCHES, N_SEQUENCES, SHAPE.seq_len + 1)
    tokens = torch.randint(SHAPE.vocab_size, size, generator=generator)
    return [(one[:, :-1], one[:, 1:]) for one in tokens]


def compute(label: str, step: Step, dtype: torch.dtype, context: DistributedContext):
    """Return losses and whole gradients on rank 0, and what each rank sent and made."""
    name, options = PARALLELISMS[label]
    cls = registry.load("parallelism", name)
    parallelism = cls(cls.Options(**options))
    shape = dataclasses.replace(SHAPE, tie_embeddings=step.tied)
    axes = {"positional": VariantChoice(name="rope", label="rope", options={})}
    whole = ModelBuilder(shape, axes, []).model()
    gpt = ModelBuilder(shape, axes, []).model().to(dtype)
    gpt.objective = step.objective
    gpt.loss_chunk = step.chunk
    gpt.recompute = step.recompute
    if step.compiled:
        compile_blocks(list(gpt.h), "aot_eager")
    model = parallelism.wrap(gpt, context.device, "fp32")
    init_parameters(gpt, 0, full_model=whole)
    n_groups = parallelism.data_parallel_size
    group = context.rank * n_groups // context.world_size
    n_local = N_SEQUENCES // n_groups
    own = slice(group * n_local, (group + 1) * n_local)
    losses = []
    traffic = CommunicationCounter()
    largest = Largest()
    with ExitStack() as stack:
        if not step.compiled:  # which the compiler would not do under a mode
            stack.enter_context(traffic)
            stack.enter_context(largest)
        for i, (tokens, targets) in enumerate(micro_batches(), start=1):
            is_last = i == N_MICRO_BATCHES
            weights = torch.ones(N_SEQUENCES, SHAPE.seq_len, dtype=dtype)
            if step.unequal:
                weights.flatten()[::3] = 2.0
            with parallelism.gradient_sync(model, enabled=is_last):
                batch_losses = model(tokens[own], targets[own])
                assert batch_losses.dtype == dtype
                mean = (batch_losses * weights[own]).mean() / N_MICRO_BATCHES
                mean.backward()
            losses.append(batch_losses.detach())
    report = compile_report() if step.compiled else None
    step_shape = StepShape("fp32", N_MICRO_BATCHES, n_local, step.recompute)
    predicted = parallelism.predicted_bytes_sent(gpt, step_shape)
    for parameter in gpt.parameters():
        parameter.data.copy_(parameter.grad)
    check_same_parameters(gpt, context)
    gradients = gather_weights(gpt, context)
    by_rank = context.gather((losses, largest.n_elements, traffic.traffic()))
    leaders = by_rank[:: context.world_size // n_groups]
    batches = zip(*(rank_losses for rank_losses, *_ in leaders), strict=True)
    return {
        "losses": torch.cat([torch.cat(batch) for batch in batches]),
        "gradients": gradients,
        "largest": [rank[1] for rank in by_rank],
        "traffic": [rank[2] for rank in by_rank],
        "predicted": predicted,
        "n_parameters": sum(parameter.numel() for parameter in whole.parameters()),
        "report": report,
    }


def compute_all(context: DistributedContext, folder: str) -> None:
    """Compute all steps of the parallelisms with this number of ranks; rank 0 writes them."""
    for label, (_, options) in PARALLELISMS.items():
        if options["nproc"] != context.world_size:
            continue
        results = {}
        for name, dtype in cases(label):
            results[name, dtype] = compute(label, STEPS[name], dtype, context)
        if context.is_first:
            torch.save(results, Path(folder) / f"steps-{label}.pt")


def read(folder: Path) -> dict[str, dict[tuple[str, torch.dtype], dict[str, object]]]:
    """Return the results of all parallelisms."""
    return {
        label: torch.load(folder / f"steps-{label}.pt", weights_only=False)
        for label in PARALLELISMS
    }
