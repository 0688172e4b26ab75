"""The answer to a study's question, in summary.json: the content of a report's first screen."""

from typing import Literal

from pydantic import Field

from harness.results.records.base import StrictModel
from harness.results.records.caveats import CaveatKind
from harness.results.records.comparisons import Effect, LossUnit, VerdictName
from harness.results.records.estimates import Bounds, CountBounds, Difference, Mean, Number

AdviceKind = Literal["better", "cheaper", "unresolved", "distrust"]


class Cost(StrictModel):
    """One cost of an entry, and its change relative to the baseline's; null if unknown."""

    value: Number | None = Field(default=None, description="the entry's cost")
    ci95: Bounds | None = Field(default=None, description="its 95 % interval over seeds")
    change: Number | None = Field(
        default=None, description="relative change from the baseline's: 0.05 is 5 % more"
    )
    change_ci95: Bounds | None = Field(
        default=None, description="its interval, which agrees with the verdict"
    )
    verdict: VerdictName | None = Field(default=None, description="verdict on the change")
    reason: str | None = Field(default=None, description="why there is no value or no change")


class AnswerRow(StrictModel):
    """One candidate against the baseline: a combination of levels on the asked axes.

    Its numbers are those of `entry`, in the baseline's context, except for a difference in the loss
    that is pooled over contexts.
    """

    entry: str = Field(description="the entry that represents the candidate")
    title: str = Field(default="", description="what people read in place of `entry`")
    levels: dict[str, str] = Field(description="label on each asked axis that varies")
    entries: list[str] = Field(description="its entries in all contexts")
    against: str | None = Field(description="the baseline; null for the baseline itself")
    val_loss: Mean | None = Field(
        default=None, description="final validation loss, nats per token; null without results"
    )
    verdict: VerdictName | None = Field(description="verdict on the loss; null with a `reason`")
    reason: str | None = Field(description="why there is no verdict; `baseline` for the baseline")
    difference: Difference | None = Field(
        description="difference in the final validation loss from the baseline's, with the "
        "interval of the verdict; null if it has no meaning"
    )
    unit: LossUnit = Field(description="its unit")
    contexts: list[str] = Field(
        default=[], description="contexts over which it is pooled; empty: of `entry` only"
    )
    more_seeds: int | None = Field(
        default=None,
        description="seeds to add for 80 % power to resolve a difference of this size; null if it "
        "is resolved, or beyond 10,000",
    )
    more_seeds_ci95: CountBounds | None = Field(default=None, description="its 95 % interval")
    tokens_per_s: Cost = Field(description="throughput, tokens per second")
    peak_memory: Cost = Field(description="peak memory of the fullest rank, bytes")
    parameters: Cost = Field(description="number of parameters")
    caveats: list[CaveatKind] = Field(description="kinds of the caveats of its entries")
    stamps: list[CaveatKind] = Field(
        default=[], description="those that are printed after its title: not of all entries"
    )


class LevelAnswer(StrictModel):
    """What one level of an asked axis does.

    It is that of the candidate that differs from the baseline in this level only. A design without
    that candidate may have a main effect.
    """

    level: str = Field(description="label of the level")
    entry: str | None = Field(
        description="entry of the candidate's row in `rows`; null without one"
    )
    effect: Effect | None = Field(description="main effect on the loss; null with an `entry`")


class AxisAnswer(StrictModel):
    """The effects of the levels of one asked axis."""

    axis: str = Field(description="the axis")
    levels: list[LevelAnswer] = Field(description="its levels but the baseline's")


class Advice(StrictModel):
    """What follows from the verdicts."""

    kind: AdviceKind = Field(
        description="`better`: lower loss, without a caveat; `cheaper`: equivalent loss, a lower "
        "cost or fewer parameters, and no higher cost; `unresolved`: no verdict yet; `distrust`: "
        "results with the caveat"
    )
    entries: list[str] = Field(description="entries of `rows` or, of a caveat, any entries")
    caveat: CaveatKind | Literal["diverges"] | None = Field(
        default=None,
        description="the caveat of `distrust`; `diverges`: fails the check of its parallelism",
    )


class Answer(StrictModel):
    """The answer: every candidate, what each level does, and what follows."""

    rows: list[AnswerRow] = Field(description="every candidate, the lowest difference first")
    by_context: list[AnswerRow] = Field(
        default=[],
        description="one row for each context of the candidates whose difference depends on it",
    )
    axes: list[AxisAnswer] = Field(description="effects of the levels of each asked axis")
    advice: list[Advice] = Field(description="what follows, in order of use")
