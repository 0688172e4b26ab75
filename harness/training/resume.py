"""Going on where an earlier attempt ended, as if it had never ended: state, curves, and what the loop carries along."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.distributed.process_group import DistributedContext
from harness.model.gpt import GPT
from harness.probes.first_step import FirstStep
from harness.results.files import read_valid_lines
from harness.results.records import EvalRecord, RunSpec, StepRecord
from harness.results.store import Run
from harness.training.checkpointing import Checkpoints, StateError, load_state, whole_states
from harness.training.evaluation import Evaluation


@dataclass(frozen=True)
class Past:
    """What was done before this attempt: steps, and the seconds that training and evaluating them took.

    `resumed_at` lists the steps with which an attempt went on, this one's too.
    """

    n_done: int
    train_s: float
    eval_s: float
    resumed_at: list[int]

    def rehearse(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        evaluate: Evaluation,
        first_step: FirstStep,
        forward_backward: Callable[[int], Tensor],
    ) -> None:
        """Do once more, and throw away, what a run does before its second step.

        The probe of the first step counts here. DDP lays out its buckets after the first backward pass, and a compiler
        chooses by the shapes that it has seen: without that, the next step could differ in its last bits.
        """
        evaluate.loss(model)
        with first_step:
            forward_backward(0)
            first_step.see_parameters()
        optimizer.zero_grad()


def go_on(
    run: Run,
    spec: RunSpec,
    ranks: DistributedContext,
    gpt: GPT,
    optimizer: torch.optim.Optimizer,
    checkpoints: Checkpoints,
    afresh: Callable[[], object],
) -> Past:
    """Load the newest whole state whose curve is known, and cut the curves back to it; without one begin at step 0.

    Every rank calls it, with the first values in place; `afresh` puts them there again.
    """
    steps, evals = (
        read_valid_lines(run.steps_path(ranks.rank), StepRecord),
        read_valid_lines(run.evals_path, EvalRecord),
    )
    n_known = min(ranks.gather(len(_counted(steps))))
    places = whole_states(run) if ranks.is_first else []
    n_done = 0
    for place in ranks.gather(places)[0]:
        n_wanted = int(place.name.removeprefix("step-"))
        if n_wanted > n_known or not ranks.gather(_evaluated(evals, n_wanted, spec))[0]:
            continue
        try:
            n_done = load_state(place, gpt, optimizer)
            break
        except StateError as error:
            print(f"{error}; an older one is looked for")
            optimizer.state.clear()
            optimizer.zero_grad()
            afresh()
    steps, evals = steps[:n_done], [line for line in evals if n_done and line.step <= n_done]
    run.truncate_steps(ranks.rank, n_done)
    if ranks.is_first:
        run.truncate_evals(len(evals))
        checkpoints.go_on(
            n_done,
            {line.step: line.val_loss for line in evals if line.val_loss is not None},
        )
        if n_done:
            print(f"goes on after {n_done} steps")
    ranks.gather(None)  # nobody appends or saves before all is cut
    return Past(
        n_done=n_done,
        train_s=sum(line.step_s for line in steps),
        eval_s=sum(line.eval_s for line in evals),
        resumed_at=[line.step for line in steps if line.resumed] + [n_done] * (n_done > 0),
    )


def _counted(steps: list[StepRecord]) -> list[StepRecord]:
    """Return the lines as far as they are steps 0, 1, 2, ..."""
    n = next(
        (i for i, line in enumerate(steps) if line.step != i),
        len(steps),
    )
    return steps[:n]


def _evaluated(evals: list[EvalRecord], n_done: int, spec: RunSpec) -> bool:
    """Tell whether the evaluations are those that a run of so many steps has made, and nothing before them is lost."""
    every, last = spec.train.eval_every, spec.train.steps
    wanted = [n for n in range(n_done + 1) if n % every == 0 or n == last]
    return [line.step for line in evals][: len(wanted)] == wanted
