"""The comparisons and tests of the entries of a study, in summary.json."""

from typing import Annotated, Literal

from pydantic import Field, Strict

from harness.results.records.base import StrictModel
from harness.results.records.estimates import Bounds, CountBounds, Difference, Mean, Number, Ratio

BudgetKind = Literal["tokens", "flops", "train_s", "parameters"]
NoisyQuantity = Literal["val_loss", "val_loss_difference"]
Quantity = Literal["val_loss", "tokens_per_s", "peak_memory"]
LossUnit = Literal["nats per token", "bits per byte"]
VerdictName = Literal["better", "worse", "equivalent", "unresolved"]
TestMethod = Literal["two keys", "Holm", "exact", "Welch"]
SuperiorityVerdict = Literal["yes", "no", "unresolved"]
Cell = Annotated[tuple[str, ...], Strict(False)]  # one level of each axis; a list in a file


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
        description="the entry of another parallelism whose loss is tested in place of this one's; "
        "null: its own is tested",
    )
    excludes_zero: bool | None = Field(
        default=None,
        description="whether the interval of the loss difference excludes 0; null without one",
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
    difference: Difference = Field(description="mean difference, variant minus baseline")
    own95: Bounds | None = Field(
        default=None, description="t interval of this difference without correction, 95 %"
    )
    p: Number | None = Field(
        default=None, description="p-value of the entry's own t test: paired, or Welch's"
    )
    p_adjusted: Number | None = Field(
        default=None,
        description="p adjusted for the family and the looks; below 0.05, the entry differs",
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

    method: TestMethod = Field(
        description="`two keys`, `Holm` if that rule does not hold, `Welch` for unpaired entries"
    )
    reason: str | None = Field(default=None, description="why the method is not `two keys`")
    context: str = Field(default="", description="labels of the context axes; empty without any")
    baseline: str = Field(default="", description="the entry that the others are compared with")
    entries: list[str] = Field(description="the entries whose differences vary between seeds")
    n_seeds: int = Field(
        description="seeds of the baseline; without two keys, of the entry that has the most"
    )
    alpha: Number = Field(
        description="level of the tests at their look: 0.05, divided among looks, and between "
        "paired and unpaired entries"
    )
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
    design: Design = Field(description="runs that the effects are estimated from")


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
