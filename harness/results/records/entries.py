"""The measurements of the entries and runs of a study, in summary.json."""

from typing import Literal

from pydantic import Field

from harness.results.records.base import StrictModel
from harness.results.records.comparisons import VerdictName
from harness.results.records.estimates import Difference, Mean, Median, Number, Ratio
from harness.results.records.probes import PHASES, CollectiveTraffic, PeakFlops, RankMemory
from harness.results.records.status import FailureReason, RunState

EquivalenceStatus = Literal["bitwise", "within tolerance", "DIVERGES", "not checked"]
Sampled = Literal["seeds", "examples", "seeds and examples"]
SpikeKind = Literal["loss", "gradient norm"]
EntryStatus = RunState | dict[RunState, int]  # of all runs, or the number by status


class EntryMetrics(StrictModel):
    """The measurements of an entry over the runs that are done; null if it has none.

    If `equivalence` is `DIVERGES`, the entry does not reproduce the single-process run, and its
    speed is omitted.
    """

    entry: str = Field(description="the entry: its variants' labels, joined by hyphens")
    title: str = Field(default="", description="what people read in place of `entry`")
    axes: dict[str, str] = Field(description="label of the variant on each axis")
    seeds: list[int] = Field(description="seeds of all runs")
    seeds_done: list[int] = Field(description="seeds of the runs that are done")
    status: EntryStatus = Field(
        description="status of all runs, or the number of runs by status (`mixed` in CSV files)"
    )
    equivalence: EquivalenceStatus | None = Field(
        description="worst verdict of its seeds in `equivalence`; null without a reference"
    )
    val_loss: Mean | None = Field(
        description="final validation loss, nats per token: mean over seeds"
    )
    bits_per_byte: Mean | None = Field(
        description="final validation loss, bits per byte: mean over seeds"
    )
    ema_val_loss: Mean | None = Field(
        default=None,
        description="final validation loss of the moving average of the parameters, nats per "
        "token: mean over seeds; null without one. The verdicts are on `val_loss`",
    )
    tokens_per_s: Median | None = Field(description="tokens per step over `step_s`")
    step_s: Median | None = Field(
        description="median time of the timed steps of the slowest rank, seconds: the geometric "
        "mean over seeds"
    )
    peak_memory_bytes: int | None = Field(description="peak memory of the fullest rank, bytes")
    memory: RankMemory | None = Field(description="memory of that rank")
    parameters: int | None = Field(description="number of parameters; null if unknown")
    flops_per_token: Number | None = Field(
        description="FLOPs per token, forward and backward; null if unknown"
    )
    flops_source: Literal["formula", "counted"] | None = Field(
        default="formula",
        description="origin of flops_per_token: the variants' formulas, or, if these are more than "
        "5 % off, PyTorch's counter; null if they are unknown",
    )
    peak_flops: Number | None = Field(
        description="peak of all devices of a run, FLOP/s; null if unknown"
    )
    mfu: Number | None = Field(
        description="model FLOPs utilization: flops_per_token x tokens_per_s / peak"
    )
    mfu_full_attention: Number | None = Field(
        default=None,
        description="mfu by the convention of PaLM and nanoGPT: 6 FLOPs for each parameter, and "
        "attention to all keys of the sequence, 12 n_layer n_embd seq_len",
    )
    unstable_seeds: list[int] = Field(
        default=[], description="seeds of the runs with a loss spike or an outlier in `spikes`"
    )
    n_loss_spikes: int = Field(default=0, description="number of loss spikes in `spikes`")
    n_grad_norm_outliers: int = Field(
        default=0, description="number of gradient norm outliers in `spikes`"
    )
    max_grad_norm: Number | None = Field(
        default=None, description="largest gradient norm before clipping"
    )


class Decoding(StrictModel):
    """Decoding at one batch and context, over the seeds that have it; null if none has."""

    batch: int = Field(description="sequences that are decoded together")
    context: int = Field(description="positions in the KV cache")
    seeds: list[int] = Field(description="seeds that the row rests on")
    prefill_tokens_per_s: Median | None = Field(
        default=None, description="throughput of one pass over the context"
    )
    decode_step_s: Median | None = Field(
        default=None, description="time of one token for every sequence, seconds"
    )
    decode_tokens_per_s: Median | None = Field(default=None, description="batch over decode_step_s")
    decode_tokens_per_s_ratio: Ratio | None = Field(
        default=None, description="the same over that of the baseline, over the common seeds"
    )
    cache_bytes: int | None = Field(default=None, description="size of the KV cache, bytes")
    reason: str | None = Field(description="why the seeds that are not in `seeds` have no value")


class LengthLoss(StrictModel):
    """The loss at one sequence length, over the seeds that have it; null if none has."""

    length: int = Field(description="sequence length of the evaluation, tokens")
    seeds: list[int] = Field(description="seeds that the row rests on")
    val_loss: Mean | None = Field(description="validation loss, nats per token")
    val_loss_difference: Mean | None = Field(description="mean paired difference from the baseline")
    windows: int | None = Field(description="number of sequences evaluated")
    reason: str | None = Field(description="why the seeds that are not in `seeds` have no value")


class TaskScore(StrictModel):
    """A metric of a task of lm-eval, over the seeds that have it; null if none has.

    The differences of an entry from its baseline in one task and metric are tested together with
    those of the other entries of the context (Holm 1979). The interval of `difference` never
    disagrees with the verdict. With one seed both are about these two models only.
    """

    task: str = Field(description="name of the task or group")
    metric: str = Field(description="name of the metric, with its filter if it has one")
    seeds: list[int] = Field(description="seeds that the row rests on")
    value: Mean | None = Field(description="value of the metric")
    difference: Difference | None = Field(
        description="mean difference from the baseline, paired by seed and, if `over` has "
        "examples, by example"
    )
    verdict: VerdictName | None = Field(
        default=None,
        description="`better`, `worse` or `unresolved`; null without a test, or if it is unknown "
        "which values are better",
    )
    over: Sampled | None = Field(
        default=None,
        description="sources of variance that the interval covers: `seeds`, `examples` (one seed: "
        "the verdict is about these models only), or `seeds and examples`; null without a test",
    )
    p: Number | None = Field(default=None, description="p-value of this difference by itself")
    p_adjusted: Number | None = Field(
        default=None,
        description="p adjusted for the entries of the context and the looks; below 0.05, the "
        "entry differs",
    )
    se_seeds: Number | None = Field(
        default=None,
        description="standard error of the difference from the seeds, with their interaction with "
        "the examples: more seeds reduce it",
    )
    se_examples: Number | None = Field(
        default=None,
        description="standard error from the examples that all seeds share: more examples reduce "
        "it",
    )
    n_comparisons: int | None = Field(
        default=None, description="number of entries that were tested together"
    )
    not_tested: str | None = Field(
        default=None, description="why a difference that is known is not tested"
    )
    repeats: str | None = Field(
        default=None,
        description="the entry of another parallelism that is tested in place of this one; null: "
        "it is tested itself",
    )
    higher_is_better: bool | None = Field(
        description="whether a higher value is better; null if unknown"
    )
    examples: int = Field(description="number of examples")
    examples_paired: int | None = Field(
        default=None,
        description="number of examples that all paired runs have, by their content; null if "
        "differences are not paired by example",
    )
    not_by_example: str | None = Field(
        default=None, description="why differences are not paired by example; null if they are"
    )
    reason: str | None = Field(description="why the seeds that are not in `seeds` have no value")


class CorpusResult(StrictModel):
    """The final loss on one corpus of a mixture, over the seeds that have it; null if none has."""

    corpus: str = Field(description="name or path of the corpus")
    share: Number = Field(description="its share of the training tokens")
    seeds: list[int] = Field(description="seeds that the row rests on")
    val_loss: Mean | None = Field(description="validation loss on it, nats per token")
    bits_per_byte: Mean | None = Field(description="the same loss in bits per byte")
    val_loss_difference: Mean | None = Field(
        description="mean paired difference from the baseline on the same windows"
    )


class PhaseTimes(StrictModel):
    """Seconds of each phase of a step: the mean over ranks and seeds of each rank's median.

    They need not add up to `step_s`. CUDA does not expose waits: null and empty.
    """

    forward_s: Number = Field(description="forward pass, seconds")
    backward_s: Number = Field(description="backward pass, seconds")
    optimizer_s: Number = Field(description="clipping and optimizer step, seconds")
    waiting_s: Number | None = Field(description="exposed communication, seconds")
    other_s: Number = Field(description="the rest of the step, seconds")
    waiting_by_rank_s: list[Number] = Field(
        description="exposed communication of each rank, seconds: the mean over seeds"
    )

    @property
    def by_name(self) -> dict[str, float | None]:
        """The seconds of each phase."""
        return {phase: getattr(self, f"{phase}_s") for phase in PHASES}

    @property
    def waiting_fraction(self) -> float | None:
        """The fraction of all phases that is exposed communication."""
        total = sum(seconds or 0.0 for seconds in self.by_name.values())
        return self.waiting_s / total if self.waiting_s is not None and total else None


class TrafficTotals(StrictModel):
    """Communication in one step of the rank that sends most."""

    collectives: dict[str, CollectiveTraffic] = Field(description="counts of each collective")
    sent_bytes: Number = Field(description="bytes sent by bandwidth-optimal algorithms")
    predicted_bytes: Number | None = Field(
        description="predicted bytes sent; null without a prediction"
    )
    deviation: Number | None = Field(
        description="bytes sent minus predicted, over predicted; null without a prediction"
    )


class MemoryComparison(StrictModel):
    """Memory that the fullest rank holds between steps, by category, and its prediction."""

    predicted: dict[str, Number] = Field(description="predicted bytes")
    deviation: dict[str, Number] = Field(description="measured minus predicted, over predicted")


class RunOutcome(StrictModel):
    """The outcome of one run."""

    run_id: str = Field(description="folder of the run")
    seed: int = Field(description="seed of the run")
    data_seed: int = Field(description="seed of the data order")
    status: RunState = Field(description="status of the run")
    reason: FailureReason | None = Field(description="category of the failure")
    message: str | None = Field(description="message of the failure")
    steps_recorded: int = Field(description="steps that every rank recorded")
    n_loss_spikes: int = Field(default=0, description="number of loss spikes in `spikes`")
    n_grad_norm_outliers: int = Field(
        default=0, description="number of gradient norm outliers in `spikes`"
    )
    max_grad_norm: Number | None = Field(
        default=None, description="largest gradient norm before clipping"
    )


class RunSummary(RunOutcome):
    """The outcome of one run, and some of its probes; null unless it is done."""

    initial_hash: str | None = Field(description="hash of all parameters before the first step")
    final_hashes: list[str] | None = Field(
        description="hash of all parameters after the last step, one for each rank"
    )
    attention_kernels: list[str] | None = Field(description="attention kernels that were executed")
    peak_flops: PeakFlops | None = Field(description="peak of all devices")
    flops_per_token_counted: Number | None = Field(
        description="FLOPs per token that all ranks executed, counted by PyTorch"
    )


class Spike(StrictModel):
    """A loss spike or an outlier of the gradient norm, as `harness.analysis.stability` defines."""

    run_id: str = Field(description="folder of the run")
    entry: str = Field(description="the entry: its variants' labels, joined by hyphens")
    seed: int = Field(description="seed of the run")
    kind: SpikeKind = Field(description="`loss` or `gradient norm`")
    step: int = Field(description="its first step")
    highest_step: int = Field(description="step of the highest value")
    last_step: int = Field(description="its last step")
    value: Number = Field(description="the highest value: nats per token, or a norm")
    height: Number = Field(
        description="rise of the loss above the lowest running median before, nats per token; "
        "ratio of the norm to the running median"
    )


class EntryResult(EntryMetrics):
    """The results of an entry, with those of the optional probes."""

    decoding: list[Decoding] = Field(description="results of the decode probe")
    lengths: list[LengthLoss] = Field(description="results of the length probe")
    tasks: list[TaskScore] = Field(default=[], description="metrics of the tasks of lm-eval")
    corpora: list[CorpusResult] = Field(
        default=[], description="losses on each corpus of a mixture"
    )
    phases: PhaseTimes | None = Field(description="phases of a step; null if not measured")
    traffic: TrafficTotals | None = Field(description="communication; null if not counted")
    predicted_memory: MemoryComparison | None = Field(
        description="memory against its prediction; null without a prediction"
    )
    runs: list[RunSummary] = Field(description="its runs, those with crossed seeds included")
