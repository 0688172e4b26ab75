"""THE loop: train one entry as its spec says, evaluate it, and write each step down as it happens."""

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.spec import RunSpec
from harness.store import Run
from harness.worker import optim
from harness.worker.build import Parts
from harness.worker.checkpoint import Checkpoints
from harness.worker.data import Batches, Tokens, micro_batch_size
from harness.worker.determinism import seed_step
from harness.worker.errors import NotFiniteError
from harness.worker.evaluate import Evaluation
from harness.worker.initial import agreed_hash
from harness.worker.precision import autocast
from harness.worker.probes import decoding, lengths
from harness.worker.probes.first_step import FirstStep
from harness.worker.probes.memory import by_category
from harness.worker.probes.peak import peak_flops
from harness.worker.probes.timer import Timer
from harness.worker.ranks import Ranks
from harness.worker.start import begin
from variants.api import Shape

N_WARMUP = 5  # steps that are recorded and not timed: the first ones allocate, choose kernels and compile


def train(run: Run, spec: RunSpec, ranks: Ranks) -> dict[str, Any]:
    """Train one entry on this rank, and return what the probes measured.

    Raises:
        NotFiniteError: loss or gradient norm stopped being finite; the step in question is recorded.
    """
    cfg, device, seq_len = spec.train, ranks.device, spec.model.seq_len
    parts = Parts(Shape(**spec.model.model_dump()), spec.axes, spec.launch.variant_paths)
    parallelism, gpt, whole = parts.parallelism(), parts.model(), parts.model()
    ranks = replace(ranks, n_alike=ranks.n_ranks // parallelism.n_data)
    if cfg.compile:
        for block in gpt.h:
            block.compile()
    model = parallelism.wrap(gpt, device, cfg.precision)
    started = begin(gpt, whole, run, spec)
    initial_hash = agreed_hash(gpt, ranks)
    optimizer = optim.adamw(gpt, cfg, parallelism)

    n_sequences = cfg.tokens_per_step // seq_len
    micro_batch = micro_batch_size(n_sequences // ranks.n_data, cfg.micro_batch)
    batches = Batches(Tokens(spec.launch.train_tokens), seq_len, n_sequences, spec.seed)
    evaluate, checkpoints = Evaluation(run, spec, ranks), Checkpoints(run, spec, ranks, gpt, optimizer)

    def forward_backward(step: int) -> Tensor:
        """Leave the step's gradients in the parameters; return the mean loss over this rank's tokens."""
        micro_batches = batches.micro_batches(step, ranks.data_rank, ranks.n_data, micro_batch)
        total = torch.zeros((), device=device)
        for i, (tokens_BT, targets_BT) in enumerate(micro_batches, start=1):
            with parallelism.accumulate(model, last=i == len(micro_batches)):
                with autocast(device, cfg.precision):
                    losses_BT = model(tokens_BT.to(device), targets_BT.to(device))
                loss = losses_BT.mean() / len(micro_batches)
                loss.backward()
            total += loss.detach()
        return total

    steps_file, timer, first_step = run.steps_file(ranks.rank), Timer(device), FirstStep(model, optimizer)
    n_warmup = min(N_WARMUP, max(1, cfg.steps // 2))
    checkpoint_every, train_s = spec.launch.checkpoint_every or cfg.eval_every, 0.0
    evaluate(model, step=0, train_s=train_s)
    for step in range(cfg.steps):
        seed_step(spec.seed, step, ranks.data_rank)
        with timer, first_step if step == 0 else nullcontext():
            lr = optim.set_learning_rate(optimizer, step, cfg)
            rank_loss = forward_backward(step)
            norm = optim.clip(gpt, cfg.grad_clip)
            optimizer.step()
            optimizer.zero_grad()
        train_s += timer.seconds

        loss, grad_norm = ranks.sum(rank_loss.item())[0] / ranks.n_ranks, norm.item()
        steps_file.append(
            {
                "step": step,
                "loss": loss,
                "step_s": timer.seconds,
                "tokens": cfg.tokens_per_step,
                "grad_norm": grad_norm,
                "lr": lr,
                "warmup": step < n_warmup,
            }
        )
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            raise NotFiniteError(f"step {step}: loss {loss}, gradient norm {grad_norm}")

        n_done, val_loss = step + 1, None
        if n_done % cfg.eval_every == 0 or n_done == cfg.steps:
            val_loss = evaluate(model, step=n_done, train_s=train_s)
        if n_done % checkpoint_every == 0 or n_done == cfg.steps:
            checkpoints.save(n_done, val_loss)

    counted = sum(ranks.gather(first_step.flops)) / cfg.tokens_per_step
    return {
        "memory": ranks.gather(by_category(optimizer, first_step, device)),
        "flops_per_token": whole.flops_per_token(),
        "flops_per_token_counted": None if parallelism.threaded else counted,
        "parameters": sum(parameter.numel() for parameter in whole.parameters()),
        "initial_hash": initial_hash,
        "start": started,
        "attention_kernels": [] if parallelism.threaded else first_step.kernels,
        "peak_flops": peak_flops(ranks, cfg.precision, parallelism.n_devices // parallelism.nproc),
        "decoding": decoding.measure(spec, parts, gpt, ranks),
        "lengths": lengths.measure(spec, model, gpt, ranks),
        "time": {"train_s": train_s, "eval_s": evaluate.total_s, "checkpoint_s": checkpoints.total_s},
    }
