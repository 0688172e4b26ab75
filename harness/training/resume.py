"""Resume an interrupted run bit for bit: state, recorded curves, and loop counters."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from harness.distributed.process_group import DistributedContext
from harness.model.gpt import GPT
from harness.probes.first_step import FirstStep
from harness.results.files import read_lines
from harness.results.records import EvalRecord, RunSpec, StepRecord
from harness.results.run import Run
from harness.training.checkpointing import (
    Checkpoints,
    StateError,
    begins_as_saved,
    load_state,
    resumable_checkpoints,
    saved_curves,
)
from harness.training.evaluation import Evaluation


@dataclass(frozen=True)
class ResumeState:
    """Counters of the earlier attempts.

    `n_done` steps are completed; training and evaluation took `train_s` and `eval_s` seconds.
    `resumed_at` lists the step counts at which an attempt resumed, this one included.
    """

    n_done: int
    train_s: float
    eval_s: float
    resumed_at: list[int]


def replay_measured_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    evaluate: Evaluation,
    first_step: FirstStep,
    forward_backward: Callable[[int], object],
    measured_step: int,
    n_done: int,
) -> None:
    """Run the first full step once and discard its result.

    The probe measures it, unless the next steps of the training include it. DDP rebuilds its
    buckets after the first backward pass, and a compiler specializes on the shapes that it has
    seen; without the replay the next step could differ in its last bits.
    """
    evaluate.loss(model)
    if n_done > measured_step:
        with first_step:
            forward_backward(measured_step)
            first_step.record_parameters()
    else:
        forward_backward(measured_step)
    optimizer.zero_grad()


def resume(
    run: Run,
    spec: RunSpec,
    context: DistributedContext,
    gpt: GPT,
    optimizer: torch.optim.Optimizer,
    checkpoints: Checkpoints,
    reset_parameters: Callable[[], object],
) -> ResumeState:
    """Load the newest undamaged state whose curve is recorded, or start at step 0.

    The recorded curves are truncated to that state. Every rank calls this with initial parameters
    in place; `reset_parameters` initializes them again.
    """
    steps = read_lines(run.steps_path(context.rank), StepRecord, until_damaged=True)
    evals = read_lines(run.evals_path, EvalRecord, until_damaged=True)
    n_recorded = min(context.gather(_n_consecutive(steps)))
    folders = resumable_checkpoints(run) if context.is_first else []
    checkpoints_found = [(folder, saved_curves(folder)) for folder in folders]
    n_done = 0
    for folder, saved in context.gather(checkpoints_found)[0]:
        n_steps = int(folder.name.removeprefix("step-"))
        if n_steps > n_recorded or not context.gather(_is_evaluated(evals, n_steps, spec))[0]:
            continue
        if not all(context.gather(begins_as_saved(run, context.rank, saved))):
            if context.is_first:
                print(f"{folder}: was saved with other curves than those of this run; not used")
            continue
        try:
            n_done = load_state(folder, gpt, optimizer, checkpoints.average)
            break
        except StateError as error:
            print(f"{error}; trying an older checkpoint")
            optimizer.state.clear()
            optimizer.zero_grad()
            reset_parameters()
    steps = steps[:n_done]
    evals = [line for line in evals if n_done and line.step <= n_done]
    run.truncate_steps(context.rank, n_done)
    if context.is_first:
        run.truncate_evals(len(evals))
        checkpoints.restore_links(n_done, _losses(evals))
        if n_done:
            print(f"resuming after {n_done} steps")
    context.barrier()  # no rank appends or saves before all files are truncated
    resumed_at = [line.step for line in steps if line.resumed]
    if n_done:
        resumed_at.append(n_done)
    return ResumeState(
        n_done=n_done,
        train_s=sum(line.step_s for line in steps),
        eval_s=sum(line.eval_s for line in evals),
        resumed_at=resumed_at,
    )


def _losses(evals: list[EvalRecord]) -> dict[int, float]:
    return {line.step: line.val_loss for line in evals if line.val_loss is not None}


def _n_consecutive(steps: list[StepRecord]) -> int:
    """Return how many of the first lines are steps 0, 1, 2, ..."""
    for i, line in enumerate(steps):
        if line.step != i:
            return i
    return len(steps)


def _is_evaluated(evals: list[EvalRecord], n_done: int, spec: RunSpec) -> bool:
    """Return whether all evaluations that a run makes in `n_done` steps are recorded."""
    every = spec.train.eval_every
    last = spec.train.steps
    expected = [n for n in range(n_done + 1) if n % every == 0 or n == last]
    recorded = [line.step for line in evals]
    return recorded[: len(expected)] == expected
