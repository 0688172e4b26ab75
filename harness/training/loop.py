"""The training loop: set up a run, train and evaluate it, record it, and collect the probes."""

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import nn

from harness.data.batches import Batches, Tokens
from harness.data.shards import check_not_overwritten, verify
from harness.distributed.process_group import DistributedContext
from harness.errors import ExitCode, Problem, UserError
from harness.model.builder import ModelBuilder
from harness.model.float8 import block_layers, compute_in_fp8, has_torchao
from harness.model.gpt import GPT
from harness.model.initialization import check_same_parameters, parameter_hashes
from harness.model.loss import Objective
from harness.model.parameters import predicted_bytes
from harness.model.precision import Conditions, dtype_of, gpu_capability, why_unsupported
from harness.probes import decode, eval_lengths, lm_eval
from harness.probes.first_step import FirstStep
from harness.probes.memory import measure_memory, recomputed_bytes
from harness.probes.peak_flops import peak_flops
from harness.probes.post_training import PostTrainingProbe
from harness.probes.timer import Timer
from harness.provenance.present_code import PresentCode
from harness.results.records import (
    N_UNTIMED_STEPS,
    InitReport,
    MemoryPrediction,
    ProbeResults,
    RunSpec,
    RunTime,
    StepRecord,
)
from harness.results.run import Run
from harness.training import optimizer as optim
from harness.training.averaging import ParameterAverage, with_average
from harness.training.checkpointing import Checkpoints
from harness.training.compilation import compile_blocks, compile_report
from harness.training.diagnosis import diagnose
from harness.training.evaluation import Evaluation
from harness.training.resume import ResumeState, replay_measured_step, resume
from harness.training.seeding import seed_step
from harness.training.signals import StopRequest, TrainingInterrupted
from harness.training.step import StepResult, TrainStep
from harness.training.warm_start import initialize_parameters
from variants.base import ModelShape, Parallelism, Precision, StepShape

COMPILER = "inductor"  # backend of `torch.compile`
RESTART = "asked to end and to start again later"


class NotFiniteError(Exception):
    """The loss or the gradient norm is NaN or infinite; the message names step and module."""


@dataclass(frozen=True)
class Setup:
    """The objects of one run on this rank.

    `model` is `gpt` as the parallelism wrapped it; `whole` is the unsharded model on the meta
    device.
    """

    run: Run
    spec: RunSpec
    context: DistributedContext
    builder: ModelBuilder
    parallelism: Parallelism
    gpt: GPT
    whole: GPT
    model: nn.Module
    optimizer: torch.optim.Optimizer
    optimizer_bytes_sent: float
    train_step: TrainStep
    init_report: InitReport | None
    initial_hash: str

    def reset_parameters(self) -> None:
        """Initialize the parameters and their average again."""
        initialize_parameters(self.gpt, self.whole, self.run, self.spec)
        if self.train_step.average is not None:
            self.train_step.average.reset()


def train(
    run: Run,
    spec: RunSpec,
    context: DistributedContext,
    stop: StopRequest | None = None,
    code: PresentCode | None = None,
) -> ProbeResults:
    """Train one run on this rank, resuming an earlier attempt, and return the probes' results.

    Raises:
        UserError: the data, or the `code` of the run, are not those that it was planned with, or
            the data were overwritten while it trained.
        NotFiniteError: loss or gradient norm is not finite; the step is recorded.
        TrainingInterrupted: a rank was asked to end; the state is saved if the run keeps
        checkpoints.
    """
    setup = set_up(run, spec, context)
    if code is not None:
        code.check()  # again: the variants have been loaded
    checkpoints = Checkpoints(
        run, spec, setup.context, setup.gpt, setup.optimizer, setup.train_step.average
    )
    past = resume(
        run,
        spec,
        setup.context,
        setup.gpt,
        setup.optimizer,
        checkpoints,
        setup.reset_parameters,
    )
    evaluate = Evaluation(run, spec, setup.context)
    verify([*spec.launch.train_tokens, *spec.launch.val_tokens])  # again: they have been opened
    first_step = FirstStep(setup.model, setup.optimizer, evaluate.peaks)
    if past.n_done == 0:
        evaluate(setup.model, 0, 0.0, setup.train_step.average)
    else:
        replay_measured_step(
            setup.model,
            setup.optimizer,
            evaluate,
            first_step,
            setup.train_step.forward_backward,
            spec.train.first_full_step,
            past.n_done,
        )
    loop = Loop(setup, past, evaluate, checkpoints, first_step, stop or StopRequest())
    with checkpoints:
        loop.run_steps()
    check_not_overwritten([setup.train_step.batches.tokens, evaluate.tokens])
    time = RunTime(
        train_s=loop.train_s,
        eval_s=past.eval_s + evaluate.total_s,
        checkpoint_s=checkpoints.blocked_s,
        checkpoint_write_s=checkpoints.written_s,
    )
    return collect_probes(setup, first_step, past.resumed_at, time)


def set_up(run: Run, spec: RunSpec, context: DistributedContext) -> Setup:
    """Build the model and the optimizer, shard them, and initialize the parameters.

    Raises:
        RuntimeError: the ranks do not start from the same parameters.
        UserError: the token files have changed since the run was planned, or the device lacks the
            precision.
    """
    verify([*spec.launch.train_tokens, *spec.launch.val_tokens])
    settings = spec.train
    shape = ModelShape(**spec.model.model_dump())
    builder = ModelBuilder(shape, spec.axes, spec.launch.variant_paths, spec.data.separator)
    parallelism = builder.parallelism()
    gpt = builder.model()
    gpt.objective = Objective(settings.label_smoothing, settings.z_loss)
    gpt.loss_chunk = settings.loss_chunk
    gpt.recompute = settings.recompute
    whole = builder.model()
    _set_precision(gpt, parallelism, spec)
    model_parallel_size = context.world_size // parallelism.data_parallel_size
    context = replace(context, model_parallel_size=model_parallel_size)
    if settings.compile:
        compile_blocks(list(gpt.h), COMPILER, n_shapes=1 + len(set(settings.ramp_tokens)))
    model = parallelism.wrap(gpt, context.device, settings.precision)
    init_report = initialize_parameters(gpt, whole, run, spec)
    initial_hash = check_same_parameters(gpt, context)
    variant = builder.optimizer(settings)
    optimizer, optimizer_bytes_sent = optim.make_optimizer(variant, gpt, whole, parallelism)

    train_step = TrainStep(
        gpt=gpt,
        model=model,
        parallelism=parallelism,
        optimizer=optimizer,
        batches=Batches(
            Tokens(spec.launch.train_tokens),
            shape.seq_len,
            settings.tokens_per_step // shape.seq_len,
            spec.order_seed,
            spec.data_offset_steps,
            spec.launch.weights,
        ),
        context=context,
        settings=settings,
        average=None if settings.ema_decay is None else ParameterAverage(gpt, settings.ema_decay),
    )
    return Setup(
        run=run,
        spec=spec,
        context=context,
        builder=builder,
        parallelism=parallelism,
        gpt=gpt,
        whole=whole,
        model=model,
        optimizer=optimizer,
        optimizer_bytes_sent=optimizer_bytes_sent,
        train_step=train_step,
        init_report=init_report,
        initial_hash=initial_hash,
    )


def _set_precision(gpt: GPT, parallelism: Parallelism, spec: RunSpec) -> None:
    """Make the model compute in fp8 if the run does.

    Raises:
        UserError: this device lacks the precision, which a login node could not know.
    """
    precision = spec.train.precision
    conditions = Conditions(
        device=spec.train.device,
        capability=gpu_capability(),
        layers=block_layers(gpt),
        supported=parallelism.precisions,
        has_torchao=has_torchao(),
    )
    if reasons := why_unsupported(precision, conditions):
        raise UserError(Problem("train.precision", reason) for reason in reasons)
    if precision == "fp8":
        compute_in_fp8(gpt)


class Loop:
    """The steps of one attempt, with their evaluations and checkpoints.

    `train_s` is the time of all steps so far, in seconds.
    """

    def __init__(
        self,
        setup: Setup,
        past: ResumeState,
        evaluate: Evaluation,
        checkpoints: Checkpoints,
        first_step: FirstStep,
        stop: StopRequest,
    ) -> None:
        self._setup = setup
        self._settings = setup.spec.train
        self._past = past
        self._evaluate = evaluate
        self._checkpoints = checkpoints
        self._first_step = first_step
        self._stop = stop
        self._checkpoint_every = setup.spec.launch.checkpoint_every or self._settings.eval_every
        # Step times are those of full steps, which a ramp precedes.
        self._first_full_step = self._settings.first_full_step
        n_full = self._settings.steps - self._first_full_step
        self._n_warmup = min(N_UNTIMED_STEPS, max(1, n_full // 2))
        self._steps_file = setup.run.steps_file(setup.context.rank)
        self._timer = Timer(setup.context.device)
        self.train_s = past.train_s

    def run_steps(self) -> None:
        """Train to the last step.

        Raises:
            NotFiniteError: loss or gradient norm is not finite.
            StateError: a checkpoint could not be written.
            TrainingInterrupted: a rank was asked to end.
        """
        settings = self._settings
        context = self._setup.context
        for step in range(self._past.n_done, settings.steps):
            self._seed(step)
            is_saving = self._checkpoints.is_writing
            is_measured = step == self._first_full_step
            with self._timer, self._first_step if is_measured else nullcontext():
                result = self._setup.train_step(step)
            self.train_s += self._timer.seconds
            has_finite_norm = bool(result.grad_norm.isfinite())
            loss_sum, stop_votes, n_infinite, n_saving, n_unwritten, n_due = context.sum(
                result.rank_loss.item(),
                self._stop.vote,
                not has_finite_norm,
                is_saving,
                self._checkpoints.has_failed,
                context.is_first and self._checkpoints.is_due,  # by one clock
            )
            self._stop.acknowledge(stop_votes)
            loss = loss_sum / context.world_size
            self._record(step, loss, result, n_saving > 0)
            if n_infinite or not math.isfinite(loss):
                raise NotFiniteError(self._diagnose(step, loss, result))

            if n_unwritten:
                self._checkpoints.wait()  # raises why

            n_done = step + 1
            is_last = n_done == settings.steps
            val_loss = None
            if n_done % settings.eval_every == 0 or is_last:
                average = self._setup.train_step.average
                val_loss = self._evaluate(self._setup.model, n_done, self.train_s, average)
            is_due = n_due or n_done % self._checkpoint_every == 0
            if is_due or is_last or self._stop.acknowledged:
                self._checkpoints.save(n_done, val_loss)
            if self._stop.acknowledged:
                self._checkpoints.wait()
                self._stop.acknowledge(*context.sum(self._stop.vote))  # also those while it saved
                wish = (
                    "asked to end" if self._stop.acknowledged == ExitCode.INTERRUPTED else RESTART
                )
                raise TrainingInterrupted(f"{wish}, after {n_done} of {settings.steps} steps")

    def _seed(self, step: int) -> None:
        """Seed the random numbers of a step."""
        spec = self._setup.spec
        data_step = spec.data_offset_steps + step
        seed_step(spec.order_seed, data_step, self._setup.context.data_parallel_rank)

    def _record(self, step: int, loss: float, result: StepResult, is_saving: bool) -> None:
        n_done_before = self._past.n_done
        record = StepRecord(
            step=step,
            loss=loss,
            step_s=self._timer.seconds,
            tokens=self._settings.tokens_at(step),
            grad_norm=result.grad_norm.item(),
            lr=result.lr,
            warmup=step < max(n_done_before, self._first_full_step) + self._n_warmup,
            resumed=step == n_done_before > 0,
            saving=is_saving,
        )
        self._steps_file.append(record)

    def _diagnose(self, step: int, loss: float, result: StepResult) -> str:
        """Return the values of a failed step and the place where they arose; print details."""
        setup = self._setup
        values = (
            f"step {step}: loss {loss:.4g}, gradient norm {result.grad_norm.item():.4g}, "
            f"learning rate {result.lr:.4g}"
        )
        if setup.context.is_first:
            print(f"{values}; repeating the step to find the first value that is not finite")

        def repeat() -> None:
            self._seed(step)
            setup.train_step.forward_backward(step)

        place, details = diagnose(setup.gpt, repeat, setup.context)
        if setup.context.is_first:
            print("\n".join([*details, place]))
        return f"{values}; {place}"


def collect_probes(
    setup: Setup, first_step: FirstStep, resumed_at: list[int], time: RunTime
) -> ProbeResults:
    """Return the measurements of the run.

    Every rank calls this. The parameters must not be used afterwards.
    """
    spec = setup.spec
    context = setup.context
    parallelism = setup.parallelism
    precision = spec.train.precision
    counts_operations = not parallelism.counters_unreliable

    compilation = None
    if spec.train.compile:
        reports = context.gather(compile_report())
        compilation = max(reports, key=lambda report: (report.limit_reached, report.n_graphs))
    n_flops = sum(context.gather(first_step.flops))
    average = setup.train_step.average
    averaged = [] if average is None else list(average.values.values())
    recomputed = _recomputed_bytes(setup)
    memory = context.gather(measure_memory(setup.optimizer, first_step, averaged, recomputed))
    n_parameters = sum(parameter.numel() for parameter in setup.whole.parameters())
    optimizer = setup.builder.optimizer(spec.train)
    predicted_memory = predicted_bytes(setup.whole, optimizer, parallelism)
    final_hashes = parameter_hashes(setup.gpt, context)
    peak = peak_flops(context, precision, parallelism.n_devices // parallelism.world_size)
    decoding = decode.measure(spec, setup.builder, setup.gpt, context)
    lengths = eval_lengths.measure(spec, setup.model, setup.gpt, context)
    tasks = lm_eval.measure(spec, setup.builder, setup.gpt, context)
    if tasks.examples is not None:
        setup.run.write_examples(tasks.examples)
    predicted_bytes_sent = parallelism.predicted_bytes_sent(setup.gpt, _step_shape(setup))
    if predicted_bytes_sent is not None:
        predicted_bytes_sent += setup.optimizer_bytes_sent
    # Trains on, so it comes after everything that reads the parameters.
    probe = PostTrainingProbe(setup.model, context, setup.train_step, spec.train.compile)
    post_training = probe.measure(spec.train.steps, setup.run, spec.launch.trace)
    return ProbeResults(
        memory=memory,
        predicted_memory=MemoryPrediction(**with_average(predicted_memory, spec.train)),
        parameters=n_parameters,
        flops_per_token=setup.whole.flops_per_token(),
        flops_per_token_counted=(
            n_flops / spec.train.tokens_per_step if counts_operations else None
        ),
        initial_hash=setup.initial_hash,
        final_hashes=final_hashes,
        init_report=setup.init_report,
        attention_kernels=first_step.kernels if counts_operations else [],
        peak_flops=peak,
        decoding=decoding,
        lengths=lengths,
        tasks=tasks.records,
        resumed_at=resumed_at,
        phases=post_training.phases,
        traffic=post_training.traffic,
        communication_dtype=_coarsest(
            parallelism.communication_dtype(precision), optimizer.update_dtype(context.device)
        ),
        predicted_bytes_sent=predicted_bytes_sent,
        compilation=compilation,
        time=time,
    )


def _coarsest(*precisions: Precision) -> Precision:
    return max(precisions, key=get_args(Precision).index)


def _recomputed_bytes(setup: Setup) -> int:
    """Return the bytes of the activations that the backward pass computes again at once."""
    train = setup.spec.train
    if train.recompute == "none":
        return 0
    model = setup.builder.model().to(dtype_of(train.precision))
    model.recompute = train.recompute
    size = (_step_shape(setup).micro_batch_size, model.shape.seq_len)
    return recomputed_bytes(model, torch.zeros(size, dtype=torch.long, device="meta"))


def _step_shape(setup: Setup) -> StepShape:
    size = setup.train_step.micro_batch_size(setup.spec.train.first_full_step)
    n_sequences = setup.train_step.batches.n_sequences
    n_micro_batches = n_sequences // setup.context.data_parallel_size // size
    train = setup.spec.train
    return StepShape(train.precision, n_micro_batches, size, train.recompute)
