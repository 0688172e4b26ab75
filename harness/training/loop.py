"""THE loop: train one entry as its spec says, evaluate it, and write each step down as it happens."""

import math
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from harness.data.batches import Batches, Tokens, micro_batch_size
from harness.distributed.process_group import DistributedContext
from harness.model.builder import ModelBuilder
from harness.model.initialization import check_same_parameters, parameter_hashes
from harness.model.precision import autocast
from harness.probes import decode as decoding
from harness.probes import eval_lengths as lengths
from harness.probes.first_step import FirstStep
from harness.probes.memory import by_category
from harness.probes.peak_flops import peak_flops
from harness.probes.post_training import PostTrainingProbe
from harness.probes.timer import Timer
from harness.results.records import ProbeResults, RunSpec, StepRecord
from harness.results.store import Run
from harness.training import optimizer as optim
from harness.training.checkpointing import Checkpoints
from harness.training.errors import NotFiniteError
from harness.training.evaluation import Evaluation
from harness.training.resume import replay_first_step, resume
from harness.training.seeding import seed_step
from harness.training.signals import StopRequest, TrainingInterrupted
from harness.training.warm_start import initialize_parameters
from variants.base import ModelShape, StepShape

N_WARMUP = (
    5  # steps that are recorded and not timed: the first ones allocate, choose kernels and compile
)


def train(
    run: Run, spec: RunSpec, context: DistributedContext, stop: StopRequest | None = None
) -> ProbeResults:
    """Train one entry on this rank, from where an earlier attempt left it, and return what the probes measured.

    Raises:
        NotFiniteError: loss or gradient norm stopped being finite; the step in question is recorded.
        TrainingInterrupted: a rank was asked to end; its state is saved as far as the run keeps anything.
    """
    cfg, device, seq_len = spec.train, context.device, spec.model.seq_len
    parts = ModelBuilder(
        ModelShape(**spec.model.model_dump()), spec.axes, spec.launch.variant_paths
    )
    parallelism, gpt, whole = parts.parallelism(), parts.model(), parts.model()
    context = replace(
        context, model_parallel_size=context.world_size // parallelism.data_parallel_size
    )
    if cfg.compile:
        for block in gpt.h:
            block.compile()
    model = parallelism.wrap(gpt, device, cfg.precision)
    reset_parameters = partial(initialize_parameters, gpt, whole, run, spec)
    init_report = reset_parameters()
    initial_hash = check_same_parameters(gpt, context)
    optimizer = optim.adamw(gpt, cfg, parallelism)

    n_sequences = cfg.tokens_per_step // seq_len
    micro_batch = micro_batch_size(n_sequences // context.data_parallel_size, cfg.micro_batch_size)
    n_micro_batches = n_sequences // context.data_parallel_size // micro_batch
    batches = Batches(Tokens(spec.launch.train_tokens), seq_len, n_sequences, spec.order_seed)
    checkpoints = Checkpoints(run, spec, context, gpt, optimizer)
    past = resume(run, spec, context, gpt, optimizer, checkpoints, reset_parameters)
    stop = stop or StopRequest()
    evaluate = Evaluation(run, spec, context)

    def forward_backward(step: int) -> Tensor:
        """Leave the step's gradients in the parameters; return the mean loss over this rank's tokens."""
        micro_batches = batches.micro_batches(
            step, context.data_parallel_rank, context.data_parallel_size, micro_batch
        )
        total = torch.zeros((), device=device)
        for i, (tokens_BT, targets_BT) in enumerate(micro_batches, start=1):
            with parallelism.gradient_sync(model, enabled=i == len(micro_batches)):
                with autocast(device, cfg.precision):
                    losses_BT = model(tokens_BT.to(device), targets_BT.to(device))
                loss = losses_BT.mean() / len(micro_batches)
                loss.backward()
            total += loss.detach()
        return total

    def update(step: int) -> tuple[float, Tensor]:
        """Go where the gradients lead and drop them; return the learning rate and their norm."""
        lr = optim.set_learning_rate(optimizer, step, cfg)
        norm = optim.clip(gpt, cfg.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        return lr, norm

    steps_file, timer, first_step = (
        run.steps_file(context.rank),
        Timer(device),
        FirstStep(model, optimizer),
    )
    n_warmup = min(N_WARMUP, max(1, cfg.steps // 2))
    checkpoint_every, train_s = spec.launch.checkpoint_every or cfg.eval_every, past.train_s
    if past.n_done == 0:
        evaluate(model, step=0, train_s=train_s)
    else:
        replay_first_step(model, optimizer, evaluate, first_step, forward_backward)
    for step in range(past.n_done, cfg.steps):
        seed_step(spec.order_seed, step, context.data_parallel_rank)
        with timer, first_step if step == 0 else nullcontext():
            rank_loss = forward_backward(step)
            lr, norm = update(step)
        train_s += timer.seconds

        loss_sum, n_stop = context.sum(rank_loss.item(), stop.requested)
        stop.acknowledged = n_stop > 0
        loss, grad_norm = loss_sum / context.world_size, norm.item()
        steps_file.append(
            StepRecord(
                step=step,
                loss=loss,
                step_s=timer.seconds,
                tokens=cfg.tokens_per_step,
                grad_norm=grad_norm,
                lr=lr,
                warmup=step < past.n_done + n_warmup,
                resumed=step == past.n_done > 0,
            )
        )
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            raise NotFiniteError(f"step {step}: loss {loss}, gradient norm {grad_norm}")

        n_done, val_loss = step + 1, None
        if n_done % cfg.eval_every == 0 or n_done == cfg.steps:
            val_loss = evaluate(model, step=n_done, train_s=train_s)
        if n_done % checkpoint_every == 0 or n_done == cfg.steps or n_stop:
            checkpoints.save(n_done, val_loss)
        if n_stop:
            raise TrainingInterrupted(f"asked to end, after {n_done} of {cfg.steps} steps")

    counted = sum(context.gather(first_step.flops)) / cfg.tokens_per_step
    n_parameters = sum(parameter.numel() for parameter in whole.parameters())
    return ProbeResults.model_validate(
        {
            "memory": context.gather(by_category(optimizer, first_step, device)),
            "predicted_memory": optim.predicted_bytes(
                n_parameters, parallelism.memory_fractions(whole)
            ),
            "flops_per_token": whole.flops_per_token(),
            "flops_per_token_counted": None if parallelism.counters_unreliable else counted,
            "parameters": n_parameters,
            "initial_hash": initial_hash,
            "final_hashes": parameter_hashes(gpt, context),
            "init_report": init_report,
            "attention_kernels": [] if parallelism.counters_unreliable else first_step.kernels,
            "peak_flops": peak_flops(
                context, cfg.precision, parallelism.n_devices // parallelism.world_size
            ),
            "decoding": decoding.measure(spec, parts, gpt, context),
            "lengths": lengths.measure(spec, model, gpt, context),
            "resumed_at": past.resumed_at,
            "time": {
                "train_s": train_s,
                "eval_s": past.eval_s + evaluate.total_s,
                "checkpoint_s": checkpoints.total_s,
            },
            "communication_dtype": parallelism.communication_dtype(cfg.precision),
            "predicted_bytes_sent": parallelism.predicted_bytes_sent(
                gpt, StepShape(cfg.precision, n_micro_batches, micro_batch)
            ),
            **PostTrainingProbe(model, context, forward_backward, update).measure(
                cfg.steps, run, spec.launch.trace
            ),  # trains on: last
        }
    )
