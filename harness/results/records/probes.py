"""probes.json: everything that a run measured besides its curves."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from harness.results.records.base import (
    Count,
    Duration,
    Finite,
    Positive,
    Seconds,
    StrictModel,
    Versioned,
)

Phase = Literal["forward", "backward", "optimizer", "waiting", "other"]
PHASES: tuple[Phase, ...] = ("forward", "backward", "optimizer", "waiting", "other")


class RankMemory(StrictModel):
    """Memory of one rank by category, bytes."""

    parameters: Count = Field(description="parameters, bytes")
    gradients: Count = Field(description="gradients, bytes")
    optimizer: Count = Field(
        description="optimizer state and the moving average of the parameters, bytes"
    )
    activations: Count = Field(
        description="activations saved for the backward pass of the largest micro-batch, bytes"
    )
    other: Count = Field(
        description="the rest, bytes; on a CPU: parameters that sharding gathers during a pass"
    )
    peak: Positive = Field(
        description="peak, bytes: the allocator's in training on CUDA, else the sum of the "
        "categories"
    )
    evaluation_peak: Count | None = Field(
        default=None,
        description="peak of the allocator in evaluations, bytes; null on a CPU and in older "
        "files, whose `peak` includes evaluations",
    )
    resident_peak: Count | None = Field(
        default=None, description="peak resident set size of the whole process, bytes; null on CUDA"
    )


class MemoryPrediction(StrictModel):
    """Predicted memory of one rank: its fraction of fp32 parameters and optimizer state."""

    parameters: Finite = Field(description="parameters, bytes")
    gradients: Finite = Field(description="gradients, bytes")
    optimizer: Finite = Field(
        description="optimizer state and the moving average of the parameters, bytes"
    )


class RankPhases(StrictModel):
    """Seconds of each phase of a step of one rank, for each of three steps after the last."""

    forward_s: Annotated[list[Finite], Field(min_length=1)] = Field(
        description="forward pass, seconds"
    )
    backward_s: Annotated[list[Finite], Field(min_length=1)] = Field(
        description="backward pass, seconds"
    )
    optimizer_s: Annotated[list[Finite], Field(min_length=1)] = Field(
        description="clipping and optimizer step, seconds"
    )
    waiting_s: list[Finite | None] = Field(
        description="exposed communication: time that the rank blocks in a collective, on data or "
        "on a slower rank, seconds; not part of the other phases. Null on CUDA, because it cannot "
        "be measured and waits are part of each phase"
    )
    other_s: Annotated[list[Finite], Field(min_length=1)] = Field(
        description="the rest of the step, seconds"
    )
    data_s: list[Finite] = Field(
        default=[],
        description="wait for the tokens of the step, seconds; part of other_s; empty if not "
        "measured",
    )

    @model_validator(mode="after")
    def _check_samples(self) -> Self:
        if len({len(getattr(self, f"{phase}_s")) for phase in PHASES}) > 1:
            raise ValueError("its phases have different numbers of samples")
        return self

    @property
    def data_wait(self) -> float | None:
        """The fraction of the steps' time that waits for tokens; None if not measured."""
        step_s = sum(sum(filter(None, getattr(self, f"{phase}_s"))) for phase in PHASES)
        return sum(self.data_s) / step_s if self.data_s and step_s else None


class CollectiveTraffic(StrictModel):
    """Calls and bytes of one collective in one step of one rank."""

    calls: Count = Field(description="number of calls")
    payload_bytes: Count = Field(
        description="bytes of the whole buffers that are reduced, scattered or broadcast, or of "
        "the result of an all-gather"
    )
    sent_bytes: Finite = Field(
        description="bytes that a rank of n sends with a bandwidth-optimal algorithm: "
        "2 (n - 1) / n of the payload in an all-reduce, (n - 1) / n in the others. Computed, not "
        "measured"
    )


class PeakFlops(StrictModel):
    """Peak throughput of all devices of the run together."""

    value: Annotated[Finite, Field(gt=0)] | None = Field(
        description="peak, FLOP/s; null on unknown hardware"
    )
    source: str = Field(
        description="vendor's dense figure and device names, or how it was measured"
    )


class DecodeRecord(StrictModel):
    """Decoding times at one batch size and context length."""

    batch: Positive = Field(description="number of sequences")
    context: Positive = Field(description="positions in the KV cache, the new one included")
    prefill_s: list[Duration] = Field(
        description="time of one pass over the whole prompt, seconds, one value per repeat"
    )
    decode_s: list[Duration] = Field(
        description="time of one new token for every sequence, seconds, one value per repeat"
    )
    cuda_graph: bool = Field(
        default=False, description="whether a CUDA graph decoded, as for long texts on a GPU"
    )
    cache_bytes: Positive | None = Field(
        description="KV cache of all layers and sequences, bytes, as allocated"
    )
    reason: str | None = Field(
        default=None, description="why it is not defined, with no samples; null if it was measured"
    )

    @model_validator(mode="after")
    def _check_samples(self) -> Self:
        measured = bool(self.prefill_s and self.decode_s and self.cache_bytes)
        if self.reason is None and not measured:
            raise ValueError("has neither times and cache size nor a reason")
        return self


class LengthRecord(StrictModel):
    """Validation loss at one sequence length."""

    length: Positive = Field(description="sequence length, tokens")
    val_loss: Finite | None = Field(
        description="mean loss, nats per token; null if it is not defined"
    )
    loss_by_position: list[Finite] = Field(
        description="mean loss at each position, nats per token; beyond 1,024 positions the means "
        "of 1,024 equal bins, of which bin i starts at position i * length // 1024"
    )
    windows: Count = Field(description="number of validation windows")
    reason: str | None = Field(
        default=None, description="why it is not defined; null if it was measured"
    )

    @model_validator(mode="after")
    def _check_losses(self) -> Self:
        measured = self.val_loss is not None and self.windows > 0
        if self.reason is None and not (measured and self.loss_by_position):
            raise ValueError("has neither losses and windows nor a reason")
        if len(self.loss_by_position) > self.length:
            raise ValueError("has more positions than tokens")
        return self


class TaskRecord(StrictModel):
    """A metric of one task of lm-eval."""

    task: str = Field(description="name of the task or group")
    metric: str = Field(description="name of the metric, with its filter if it has one")
    value: Finite | None = Field(description="value of the metric; null if it is not defined")
    stderr: Finite | None = Field(
        default=None, description="its standard error over the examples; null if unknown"
    )
    higher_is_better: bool | None = Field(
        default=None, description="whether a higher value is better; null if unknown"
    )
    examples: Count = Field(description="number of examples")
    not_by_example: str | None = Field(
        default=None,
        description="why examples.json has no value of each example; null if it has, and in older "
        "files",
    )
    reason: str | None = Field(
        default=None, description="why it is not defined; null if it was measured"
    )

    @model_validator(mode="after")
    def _check_value(self) -> Self:
        if self.reason is None and self.value is None:
            raise ValueError("has neither a value nor a reason")
        return self


class InitReport(StrictModel):
    """The tensors that were loaded from the checkpoint that the run started from."""

    source: str = Field(description="folder or run id of the checkpoint")
    sha256: str = Field(description="SHA-256 of its weights")
    tensors: dict[str, str] = Field(
        description="origin of each parameter: `loaded`, `fresh`, or how it was converted"
    )
    dropped: list[str] = Field(description="tensors of the checkpoint that the model does not use")


class RunTime(StrictModel):
    """Wall time of a run, seconds."""

    train_s: Seconds = Field(description="sum of all step times, seconds")
    eval_s: Seconds = Field(description="sum of all evaluation times, seconds")
    checkpoint_s: Seconds = Field(
        default=0.0,
        description="time that checkpoints of the last attempt kept the training waiting, seconds",
    )
    checkpoint_write_s: Seconds | None = Field(
        default=None,
        description="time of writing them in the background, seconds; null in older files, whose "
        "`checkpoint_s` includes it",
    )
    total_s: Seconds | None = Field(
        default=None, description="last attempt, from the process's start to its end, seconds"
    )


class CompileReport(StrictModel):
    """The compiled graphs of the training steps of a run, on the rank that has most."""

    n_graphs: Count = Field(description="number of distinct graphs that were compiled")
    n_graph_breaks: Count = Field(description="number of graph breaks")
    limit_reached: bool = Field(
        description="whether the compiler gave up because of too many graphs, so that parts of "
        "the model ran uncompiled; such a run has no speed"
    )
    n_recompiles: Count | None = Field(
        default=None,
        description="compilations of code that was compiled before, for another block or shape; "
        "null in older files",
    )
    compile_s: Seconds | None = Field(
        default=None,
        description="time of all compilations, which is part of warm-up steps, seconds; null in "
        "older files",
    )


class ProbeResults(Versioned):
    """Measurements of a run that is done."""

    memory: Annotated[list[RankMemory], Field(min_length=1)] = Field(
        description="memory of each rank"
    )
    predicted_memory: MemoryPrediction | None = Field(
        None, description="predicted memory of one rank"
    )
    parameters: Positive = Field(description="number of parameters")
    flops_per_token: Finite = Field(
        description="FLOPs per training token by the variants' stated formulas"
    )
    flops_per_token_counted: Finite | None = Field(
        None,
        description="FLOPs per token that all ranks executed, counted by PyTorch; null if they "
        "cannot be counted",
    )
    initial_hash: str | None = Field(
        description="hash of all parameters before the first step, equal on all ranks"
    )
    final_hashes: list[str] | None = Field(
        default=None, description="hash of all parameters after the last step, one for each rank"
    )
    init_report: InitReport | None = Field(
        default=None, description="loaded checkpoint; null after random initialization"
    )
    attention_kernels: list[str] = Field(
        default=[], description="attention kernels that were executed"
    )
    peak_flops: PeakFlops = Field(description="peak of all devices")
    decoding: list[DecodeRecord] = Field(default=[], description="results of the decode probe")
    lengths: list[LengthRecord] = Field(default=[], description="results of the length probe")
    tasks: list[TaskRecord] = Field(default=[], description="metrics of the tasks of lm-eval")
    resumed_at: list[Count] = Field(
        default=[],
        description="step counts at which training resumed; empty if it was never interrupted",
    )
    phases: list[RankPhases] = Field(
        default=[], description="times of the phases of a step, for each rank"
    )
    traffic: list[dict[str, CollectiveTraffic]] = Field(
        default=[], description="communication of one step by collective, for each rank"
    )
    communication_dtype: Literal["fp32", "bf16", "fp8"] | None = Field(
        default=None, description="coarsest type of any tensor, also in communication between ranks"
    )
    predicted_bytes_sent: Finite | None = Field(
        default=None,
        description="bytes that a rank sends in a step by the parallelism's formula; null "
        "without a formula",
    )
    compilation: CompileReport | None = Field(
        default=None, description="work of the compiler; null if the model was not compiled"
    )
    time: RunTime | None = Field(default=None, description="wall time")
    checksums: dict[str, Count] = Field(
        default={},
        description="CRC-32 of the files of steps, evaluations and examples; empty in older files",
    )
