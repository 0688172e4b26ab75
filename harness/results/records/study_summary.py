"""summary.json: the results of a study, computed by `harness.analysis`."""

from typing import Annotated, Literal

from pydantic import Field, Strict

from harness.results.records.base import StrictModel, Versioned
from harness.results.records.estimates import (
    Bounds,
    CountBounds,
    Difference,
    Mean,
    Median,
    Number,
    Ratio,
)
from harness.results.records.ladder import Ladder
from harness.results.records.lines import LaunchRecord
from harness.results.records.looks import Looks
from harness.results.records.probes import PHASES, CollectiveTraffic, PeakFlops, RankMemory
from harness.results.records.run_spec import ResolvedData, ResolvedModel
from harness.results.records.settings import TrainSettings
from harness.results.records.status import Environment, FailureReason, RunState
from harness.results.records.tuning import TuningResults

BudgetKind = Literal["tokens", "flops", "train_s", "parameters"]
EquivalenceStatus = Literal["bitwise", "within tolerance", "DIVERGES", "not checked"]
NoisyQuantity = Literal["val_loss", "val_loss_difference"]
Quantity = Literal["val_loss", "tokens_per_s", "peak_memory"]
LossUnit = Literal["nats per token", "bits per byte"]
SpikeKind = Literal["loss", "gradient norm"]
EntryStatus = RunState | dict[RunState, int]  # of all runs, or the number by status
VerdictName = Literal["better", "worse", "equivalent", "unresolved"]
TestMethod = Literal["two keys", "Holm", "exact", "Welch"]
SuperiorityVerdict = Literal["yes", "no", "unresolved"]
CaveatKind = Literal[
    "non-causal",
    "outdated",
    "below-entropy",
    "unstable",
    "initial-loss",
    "counted-flops",
    "not-compiled",
    "other-budget",
    "other-precision",
    "other-hardware",
    "shared-machine",
    "lost-seeds",
    "overfitting",
    "unplanned-look",
]

Scalar = str | int | float | bool | None
Cell = Annotated[tuple[str, ...], Strict(False)]  # one level of each axis; a list in a file


# -- entries --------------------------------------------------------------------------------------


class EntryMetrics(StrictModel):
    """The measurements of an entry over the runs that are done; null if it has none.

    If `equivalence` is `DIVERGES`, the entry does not reproduce the single-process run, and its
    speed is omitted.
    """

    entry: str = Field(description="the entry: its variants' labels, joined by hyphens")
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
    corpora: list[CorpusResult] = Field(
        default=[], description="losses on each corpus of a mixture"
    )
    phases: PhaseTimes | None = Field(description="phases of a step; null if not measured")
    traffic: TrafficTotals | None = Field(description="communication; null if not counted")
    predicted_memory: MemoryComparison | None = Field(
        description="memory against its prediction; null without a prediction"
    )
    runs: list[RunSummary] = Field(description="its runs, those with crossed seeds included")


# -- comparisons ----------------------------------------------------------------------------------


class BaselineComparison(StrictModel):
    """An entry compared with its baseline, over the seeds that both have done."""

    entry: str = Field(description="the entry: its variants' labels, joined by hyphens")
    against: str = Field(description="the entry that it is compared with")
    context: str = Field(default="", description="labels of the context axes; empty without any")
    differs: list[str] = Field(description="axes on which the two entries differ")
    seeds: list[int] = Field(description="seeds that both have done")
    seeds_unpaired: int = Field(description="number of seeds that only one of the two has done")
    val_loss_difference: Difference | None = Field(
        description="mean paired difference of final loss, variant minus baseline, nats per token; "
        "null if `loss_unit` is another"
    )
    bits_per_byte_difference: Difference | None = Field(
        default=None,
        description="the same in bits per byte, if the tokenizers differ",
    )
    loss_unit: LossUnit | None = Field(
        default="nats per token",
        description="unit in which the losses are compared; null: they are not comparable",
    )
    not_comparable: str | None = Field(
        default=None, description="why the losses are not comparable"
    )
    repeats: str | None = Field(
        default=None,
        description="the entry under the baseline's parallelism, which is tested for this one",
    )
    excludes_zero: bool | None = Field(
        default=None, description="whether that interval excludes 0; null without an interval"
    )
    tokens_per_s_ratio: Ratio | None = Field(description="throughput over that of the baseline")
    speed_diverges: bool = Field(
        description="whether one of the two fails the equivalence check, so that there is no ratio"
    )
    speed_not_comparable: str | None = Field(
        default=None,
        description="why no seed's times can be compared: another machine, slot or software",
    )
    speed_seeds_excluded: list[int] = Field(
        default=[], description="seeds whose times cannot be compared for such a reason"
    )
    peak_memory_ratio: Number | None = Field(description="peak memory over that of the baseline")
    memory_not_comparable: str | None = Field(
        default=None, description="why no seed's peak memory can be compared"
    )


class SignificanceResult(StrictModel):
    """The test of one difference, variant minus baseline; a single seed gives `difference` only.

    `p_adjusted` controls the familywise error rate and decides the verdict; `p_bh` controls the
    false discovery rate. `p_equivalent` is that of two one-sided tests against the margin
    (Schuirmann 1987). The interval of `difference` never disagrees with the verdict; `own95` does
    not know of the other comparisons and may. `effect_size` is the mean of the differences over
    their standard deviation, bias-corrected (Hedges 1981).
    """

    verdict: VerdictName | None = Field(
        description="`better`, `worse`, `equivalent` or `unresolved`; null for a single seed, or "
        "if `seed_has_no_effect`"
    )
    superior: SuperiorityVerdict | None = Field(
        default=None,
        description="whether it is better by more than the study's threshold: `yes` or `no` if the "
        "interval of the difference is wholly beyond or wholly short of it; null without a "
        "threshold, or for a single seed",
    )
    method: TestMethod | None = Field(
        default=None,
        description="`two keys`: pooled Dunnett test and own t test; `Holm`: own t tests adjusted "
        "by Holm (1979); `exact`: differences that are equal in every seed; `Welch`: unpaired test "
        "(Welch 1947), because fewer than two seeds are common with the baseline",
    )
    difference: Difference = Field(description="mean paired difference, variant minus baseline")
    own95: Bounds | None = Field(
        default=None, description="t interval of this difference without correction, 95 %"
    )
    p: Number | None = Field(default=None, description="p-value of the paired t test")
    p_adjusted: Number | None = Field(
        default=None, description="p adjusted for the family; below its level, the entry differs"
    )
    p_bh: Number | None = Field(
        default=None, description="p adjusted for the family by Benjamini and Hochberg (1995)"
    )
    p_equivalent: Number | None = Field(
        default=None, description="adjusted p of the equivalence test; null without a margin"
    )
    effect_size: Number | None = Field(
        default=None, description="Hedges' g of the paired differences"
    )
    seeds_to_resolve: int | None = Field(
        default=None,
        description="seeds for 80 % power if the verdict is `unresolved`; null beyond 10,000",
    )
    seeds_to_resolve_ci95: CountBounds | None = Field(
        default=None,
        description="its 95 % interval, of the uncertainty of the difference and the noise; an "
        "end is null beyond 10,000",
    )
    lost_seeds: list[int] = Field(
        default=[],
        description="failed seeds of the entry or its baseline, unless all of the family lost them",
    )
    look: int | None = Field(
        default=None,
        description="number of the look that gave the verdict, or the last that the entry took "
        "part in; null if the study has one look",
    )
    seed_has_no_effect: bool = Field(
        default=False,
        description="whether the difference is the same in every seed, and so one observation",
    )
    unit: LossUnit | None = Field(
        default=None,
        description="unit of a difference in the loss; null: the metric's own, nats per token",
    )


class TestFamily(StrictModel):
    """How the differences from one baseline were tested together."""

    __test__ = False  # not a test of pytest

    method: TestMethod = Field(description="`two keys`, `Holm` if that rule does not hold, `Welch`")
    reason: str | None = Field(default=None, description="why the method is not `two keys`")
    context: str = Field(default="", description="labels of the context axes; empty without any")
    baseline: str = Field(default="", description="the entry that the others are compared with")
    entries: list[str] = Field(description="the entries whose differences vary between seeds")
    n_seeds: int = Field(description="number of seeds of the baseline")
    alpha: Number = Field(description="familywise error rate")
    noise: Number | None = Field(
        default=None, description="pooled standard deviation of a paired difference"
    )
    degrees_of_freedom: int | None = Field(default=None, description="those of the noise")
    critical_value: Number | None = Field(
        default=None, description="half of a simultaneous interval over the standard error"
    )
    baseline_p: Number | None = Field(
        default=None, description="p-value of the F test that the baseline is as noisy as others"
    )


class PooledResult(SignificanceResult):
    """The test of one difference over several contexts, from its mean over contexts per seed.

    `interaction_p` is that of a repeated measures analysis of variance with the degrees of freedom
    of Greenhouse & Geisser (1959): whether the difference depends on the context.
    """

    asked: str = Field(description="labels of the asked axes that differ from the baseline's")
    levels: dict[str, str] = Field(description="label on each asked axis")
    contexts: list[str] = Field(description="contexts that are pooled")
    contexts_missing: list[str] = Field(
        default=[], description="other contexts that have the entry, but no difference"
    )
    verdicts: dict[str, VerdictName | None] = Field(description="verdict in each context")
    seeds: list[int] = Field(description="seeds that all contexts have done")
    seeds_incomplete: list[int] = Field(
        default=[], description="seeds that some of the contexts have done"
    )
    interaction_p: Number | None = Field(
        default=None, description="p-value of the test that all contexts have the same difference"
    )
    interaction_p_holm: Number | None = Field(
        default=None, description="that p adjusted for all pooled differences (Holm 1979)"
    )
    depends_on_context: bool | None = Field(
        default=None, description="whether that p is below 0.05; null for a single seed"
    )


class Effect(StrictModel):
    """The effect of `levels` relative to the baseline's levels, averaged over the other axes.

    One axis gives a main effect; two give their interaction: the effect of both levels beyond the
    sum of each. Each seed gives one value of it, and the test is that of these values. All numbers
    are null if no seed has the runs that it needs.
    """

    levels: dict[str, str] = Field(description="axes and the labels that are compared")
    estimate: Number | None = Field(
        default=None, description="mean over seeds, averaged over the other axes"
    )
    n: int | None = Field(default=None, description="number of seeds that have a value of it")
    se: Number | None = Field(
        default=None, description="standard error over seeds; null for a single seed"
    )
    ci95: Bounds | None = Field(
        default=None,
        description="interval that agrees with the verdict: simultaneous over all main effects, or "
        "all interactions; null for a single seed, and for an exact effect",
    )
    own95: Bounds | None = Field(default=None, description="95 % t interval of only this effect")
    p: Number | None = Field(default=None, description="p-value of the t test over seeds")
    p_holm: Number | None = Field(
        default=None, description="p adjusted for all main effects, or all interactions"
    )
    verdict: VerdictName | None = Field(
        default=None, description="`better`, `worse`, `equivalent` or `unresolved`"
    )
    method: TestMethod | None = Field(
        default=None,
        description="`Holm`: t test over seeds; `exact`: equal in every seed, and not tested",
    )
    lost_seeds: list[int] = Field(
        default=[], description="failed seeds of the runs that are compared, unless all lost them"
    )
    seed_has_no_effect: bool = Field(
        default=False,
        description="whether it is the same in every seed, and so one observation",
    )


class Design(StrictModel):
    """The runs that the effects are estimated from."""

    runs: int = Field(description="number of runs")
    seeds: int = Field(default=0, description="number of seeds")
    missing: list[Cell] = Field(description="cells of the matrix without a run")


class MetricTests(StrictModel):
    """All tests of one metric: entries against their baseline, and the effects of the design."""

    quantity: Quantity = Field(description="the metric")
    margin: Number | None = Field(
        description="equivalence margin, nats per token or a logarithm; null if none is stated"
    )
    superiority: Number | None = Field(
        default=None,
        description="threshold of improvement in the same unit; null if none is stated",
    )
    entries: dict[str, SignificanceResult] = Field(description="test of each entry")
    families: list[TestFamily] = Field(
        default=[], description="how the entries of each context were tested together"
    )
    main_effects: list[Effect] = Field(description="effects of the levels of each axis")
    interactions: list[Effect] = Field(description="effects of two axes")
    context_effects: list[Effect] = Field(
        default=[], description="effects of the levels of context axes, without verdicts"
    )
    pooled: list[PooledResult] = Field(
        default=[], description="tests over several contexts; empty without context axes"
    )
    design: Design = Field(description="the linear model")


class Ranking(StrictModel):
    """Entries by their validation loss at an equal budget, the lowest first.

    Entries that differ from others only in parallelism are ranked by time only.
    """

    context: str = Field(default="", description="labels of the context axes; empty without any")
    budget_kind: BudgetKind = Field(
        description="equal quantity: `tokens`, `flops`, `train_s`, `parameters`"
    )
    budget: Number = Field(
        description="its amount: the smallest total of any entry; for `parameters`, the "
        "baseline's number, and entries of another size are omitted"
    )
    val_loss: dict[str, Mean] = Field(
        description="validation loss of each entry at the budget, nats per token, without "
        "intervals: that of the first of many entries would be too narrow"
    )
    lost: list[str] = Field(
        default=[],
        description="entries without a rank: they lost seeds that others did not, see `lost-seeds`",
    )


class CostToBaselineLoss(StrictModel):
    """The cost of reaching a final loss: the baseline's over the entry's, each until it first does.

    A ratio of 1.12 means that the baseline needs 1.12 times as much, one of 0.9 that the entry
    needs more. Ratios are geometric means over seeds, with the t interval of their logarithm.
    A run that does not reach the loss costs more than all that it spent, so the mean is a bound.
    All ratios are null if seeds were lost that other entries did not lose.
    """

    entry: str = Field(description="the entry: its variants' labels, joined by hyphens")
    against: str = Field(description="the entry that it is compared with")
    margin: Number = Field(
        default=0.0, description="a loss is reached within this margin, nats per token"
    )
    seeds: list[int] = Field(description="seeds that reach the baseline's final loss")
    not_reached: list[int] = Field(description="seeds that do not")
    baseline_not_reached: list[int] = Field(
        default=[], description="seeds in which the baseline does not reach the entry's final loss"
    )
    lost_seeds: list[int] = Field(
        default=[], description="seeds of which the run of one of the two failed"
    )
    tokens_ratio: Number | None = Field(
        default=None,
        description="the baseline's tokens over the entry's, to the baseline's final loss; null if "
        "a seed does not reach it",
    )
    tokens_ratio_ci95: Bounds | None = Field(default=None, description="its 95 % interval")
    tokens_ratio_at_most: Number | None = Field(
        default=None, description="upper bound of that ratio if a seed does not reach the loss"
    )
    train_time_ratio: Number | None = Field(
        default=None, description="the same of the training time"
    )
    train_time_ratio_ci95: Bounds | None = Field(default=None, description="its 95 % interval")
    train_time_ratio_at_most: Number | None = Field(
        default=None, description="upper bound of that ratio if a seed does not reach the loss"
    )
    tokens_ratio_at_entry_loss: Number | None = Field(
        default=None,
        description="the baseline's tokens over the entry's, to the entry's final loss; null if "
        "the baseline does not reach it in a seed",
    )
    tokens_ratio_at_entry_loss_ci95: Bounds | None = Field(
        default=None, description="its 95 % interval"
    )
    tokens_ratio_at_entry_loss_at_least: Number | None = Field(
        default=None,
        description="lower bound of that ratio if the baseline does not reach the loss in a seed",
    )
    train_time_ratio_at_entry_loss: Number | None = Field(
        default=None, description="the same of the training time"
    )
    train_time_ratio_at_entry_loss_ci95: Bounds | None = Field(
        default=None, description="its 95 % interval"
    )
    train_time_ratio_at_entry_loss_at_least: Number | None = Field(
        default=None,
        description="lower bound of that ratio if the baseline does not reach the loss in a seed",
    )


class Component(StrictModel):
    """One source of noise.

    The interval of the rest is that of a chi-squared variance. That of a source is Williams's
    (1962), which is conservative. Both assume independent seeds: seeds that entries share count
    once.
    """

    sd: Number = Field(description="standard deviation, nats per token")
    ci95: Bounds = Field(description="its 95 % interval")
    fraction: Number = Field(description="fraction of the variance")


class VarianceComponents(StrictModel):
    """The components of a final validation loss, or of its difference from the baseline's."""

    quantity: NoisyQuantity = Field(
        description="`val_loss`, or `val_loss_difference` from the baseline"
    )
    entries: list[str] = Field(
        description="entries that are pooled: those of which every pair of seeds is done"
    )
    seeds: list[int] = Field(description="seeds that are crossed")
    init: Component = Field(description="noise of the initial values")
    data: Component = Field(description="noise of the data order")
    rest: Component = Field(description="the rest, with their interaction")


# -- parallel runs --------------------------------------------------------------------------------


class Equivalence(StrictModel):
    """The check of one run against the run of the same seed of the reference entry.

    Numbers are null without a reference run.
    """

    entry: str = Field(description="the entry: its variants' labels, joined by hyphens")
    against: str | None = Field(
        description="the reference: one process, else the baseline's parallelism"
    )
    seed: int = Field(description="seed of the run")
    verdict: EquivalenceStatus = Field(
        default="not checked",
        description="`bitwise`, `within tolerance`, `DIVERGES` or `not checked`",
    )
    reason: str | None = Field(default=None, description="why the run diverges or was not checked")
    bitwise: bool | None = Field(
        default=None, description="whether all training losses are identical"
    )
    initial_hash_equal: bool | None = Field(
        default=None, description="whether the initial parameters are identical"
    )
    ranks_agree: bool | None = Field(
        default=None, description="whether all ranks end with the same parameters"
    )
    max_rel_loss_dev_first5: Number | None = Field(
        default=None, description="largest relative loss deviation, 5 steps"
    )
    max_rel_grad_norm_dev_first5: Number | None = Field(
        default=None, description="the same of the gradient norm"
    )
    rel_loss_tolerance: Number | None = Field(
        default=None, description="tolerance of the loss deviation"
    )
    rel_grad_norm_tolerance: Number | None = Field(
        default=None, description="tolerance of the gradient norm deviation"
    )
    abs_loss_dev_first: Number | None = Field(
        default=None, description="loss deviation of the first step, nats per token"
    )
    abs_loss_dev_last: Number | None = Field(
        default=None, description="loss deviation of the last step, nats per token"
    )
    max_abs_loss_dev: Number | None = Field(
        default=None, description="largest loss deviation, nats per token"
    )
    abs_val_loss_dev: Number | None = Field(
        default=None, description="deviation of final validation loss, nats per token"
    )


class ScalingRow(StrictModel):
    """One entry of a group of entries that differ only in the number of processes."""

    entry: str = Field(description="the entry: its variants' labels, joined by hyphens")
    group: str = Field(description="common labels of the compared entries")
    world_size: int = Field(description="number of processes")
    tokens_per_s: Median = Field(description="throughput")
    against: str = Field(description="the entry that it is compared with")
    against_world_size: int = Field(description="number of processes of that entry")
    speedup: Ratio = Field(description="throughput over that of `against`")
    efficiency: Number = Field(description="speedup over the ratio of the numbers of processes")
    efficiency_ci95: Bounds | None = Field(
        default=None,
        description="its 95 % interval; null for a single seed, and for the reference",
    )


# -- the study ------------------------------------------------------------------------------------


class SharedSettings(StrictModel):
    """The sections of spec.json that all entries share; null if the study has no runs."""

    model: ResolvedModel | None = Field(default=None, description="model shape")
    data: ResolvedData | None = Field(default=None, description="text")
    train: TrainSettings | None = Field(default=None, description="training and evaluation")


class LeftOut(StrictModel):
    """Numbers of runs that the report does not cover."""

    other_settings: int = Field(description="runs with a different settings hash")
    superseded: int = Field(description="runs replaced by a newer run of the same entry and seed")


class Unreadable(StrictModel):
    """A run's folder, or a file of the study, that cannot be read."""

    name: str = Field(description="name of the folder or file")
    why: str = Field(description="the reason")


class EnvironmentRuns(StrictModel):
    """An environment and the runs that have it."""

    env: Environment = Field(description="content of env.json")
    runs: list[str] = Field(description="run ids")


class Caveat(StrictModel):
    """A reason not to take a result at face value."""

    kind: CaveatKind = Field(
        description="`non-causal`: it sees later tokens, which the study allows; `outdated`: the "
        "code has changed since the run; `below-entropy`: the loss is below the corpus's "
        "entropy; `unstable`: loss spikes or outliers of the gradient norm; `initial-loss`: far "
        "from ln(vocabulary); `counted-flops`: the variant's formula is wrong; `not-compiled`: the "
        "compiler's limit was reached; `other-budget`: the baseline trains on another number of "
        "tokens, or another amount of text; `lost-seeds`: a run failed, and the other seeds are a "
        "selection; `overfitting`: the validation loss rises after its lowest value; "
        "`other-precision`: validated in another precision than the baseline; "
        "`other-hardware`: runs on another machine, or with other cores, threads or software, than "
        "the baseline's of the seed; `shared-machine`: runs that overlapped others on their host; "
        "`unplanned-look`: the number of seeds changed when results could be seen"
    )
    entry: str | None = Field(description="the entry; null if it concerns the whole study")
    message: str = Field(description="the observation, as one sentence")


class StudySummary(Versioned):
    """Results of one study. A number that is not finite is null."""

    study: str = Field(description="name of the study")
    created_at: str = Field(description="time of the report, ISO 8601, UTC")
    settings_hash: str | None = Field(description="hash of the settings that all entries share")
    axes: dict[str, list[str]] = Field(description="labels of each axis, the baseline's first")
    baseline: dict[str, str] = Field(description="label of the baseline on each axis")
    asked: list[str] = Field(
        default=[], description="varying axes whose levels are compared; the others are context"
    )
    contexts: list[str] = Field(default=[], description="context axes: compared entries agree here")
    settings: SharedSettings = Field(
        description="settings of the newest run, which all entries share except for `varied`"
    )
    varied: dict[str, dict[str, Scalar]] = Field(
        default={},
        description="value of each setting that differs between entries, by the label of the axis "
        "that sets it, or by entry if it depends on several axes",
    )
    runs: dict[RunState, int] = Field(description="number of runs by status")
    left_out: LeftOut = Field(description="number of runs that are left out")
    unreadable: list[Unreadable] = Field(description="damaged folders and files")
    caveats: list[Caveat] = Field(
        default=[], description="reasons not to take results at face value"
    )
    entries: list[EntryResult] = Field(description="results of each entry")
    comparisons: list[BaselineComparison] = Field(
        description="paired differences from the baseline"
    )
    verdicts: dict[Quantity, MetricTests] = Field(description="tests of each metric")
    rankings: list[Ranking] = Field(description="validation loss at an equal budget")
    savings: list[CostToBaselineLoss] = Field(description="cost to reach the baseline's final loss")
    variance: list[VarianceComponents] = Field(
        description="sources of the noise; empty unless seeds are crossed"
    )
    equivalence: list[Equivalence] = Field(
        description="deviation of each parallel run from the single-process run"
    )
    scaling: list[ScalingRow] = Field(description="speedup over fewer processes")
    ladder: Ladder | None = Field(
        default=None, description="scaling laws over the sizes of an axis; null without a ladder"
    )
    spikes: list[Spike] = Field(
        default=[], description="loss spikes and gradient norm outliers of all runs"
    )
    tuning: TuningResults | None = Field(
        default=None, description="tuning of the study; null if it does not tune"
    )
    looks: Looks | None = Field(
        default=None,
        description="looks at the results, with the level of each; null: one look, level 0.05",
    )
    environments: list[EnvironmentRuns] = Field(description="each distinct env.json")
    imported: bool = Field(
        default=False, description="whether the runs are of another trainer (`ingest`)"
    )
    launches: list[LaunchRecord] = Field(description="lines of launches.jsonl")
