"""Results of a ladder in summary.json: scaling laws, effective speedups and projections."""

from typing import Literal

from pydantic import Field

from harness.results.records.base import StrictModel
from harness.results.records.estimates import Bounds, Mean, Number

Scale = Literal["flops", "parameters", "tokens"]
TrendVerdict = Literal["grows", "holds", "shrinks", "unresolved"]

CURVE = "the entry without its size: labels on the other varying axes, joined by hyphens"
NOT_REACHED = "null: the law of `against` never reaches the loss"


class LadderPoint(StrictModel):
    """One size of an entry."""

    entry: str = Field(description=CURVE)
    size: str = Field(description="label on the ladder's axis")
    lost_seeds: list[int] = Field(
        default=[], description="seeds that failed; with one, the other seeds are a selection"
    )
    flops: Number = Field(description="training FLOPs: FLOPs per token times training tokens")
    parameters: Number = Field(description="number of parameters")
    tokens: Number = Field(description="training tokens")
    val_loss: Mean = Field(description="final validation loss, nats per token: mean over seeds")


class LadderFit(StrictModel):
    """The law loss = E + A x^-alpha of an entry, and how it predicts the largest size.

    The largest size is predicted from a fit to the smaller ones, if there are at least three.
    """

    entry: str = Field(description=CURVE)
    over: Scale = Field(description="x: training `flops`, `parameters` or training `tokens`")
    n_sizes: int = Field(description="number of sizes with a finished run")
    irreducible: Number = Field(description="E, nats per token")
    irreducible_ci95: Bounds | None = Field(description="its 95 % interval")
    coefficient: Number = Field(description="A, nats per token at x = 1")
    exponent: Number = Field(description="alpha")
    exponent_ci95: Bounds | None = Field(description="its 95 % interval")
    largest_measured: Number | None = Field(
        description="mean loss at the largest size, nats per token"
    )
    largest_predicted: Number | None = Field(
        description="loss there, predicted from the smaller sizes; null: fewer than three of these"
    )
    largest_predicted_ci95: Bounds | None = Field(description="its 95 % prediction interval")
    leave_out_error: Number | None = Field(description="predicted minus measured, nats per token")


class LadderSpeedup(StrictModel):
    """The effective speedup of an entry at one size.

    The compute (or time) that the baseline's law needs for the entry's loss, over what it used.
    """

    entry: str = Field(description=CURVE)
    against: str = Field(description="the baseline, named in the same way")
    size: str = Field(description="label on the ladder's axis")
    flops: Number = Field(description="training FLOPs of the entry")
    val_loss_difference: Number = Field(
        description="mean paired difference from the baseline at this size, nats per token"
    )
    compute_multiplier: Number | None = Field(description=f"in FLOPs; {NOT_REACHED}")
    compute_multiplier_ci95: Bounds | None = Field(
        description=f"its 95 % interval; an end that is {NOT_REACHED}"
    )
    time_multiplier: Number | None = Field(
        description="in training time, at the measured FLOP/s of both; null as well without a speed"
    )
    time_multiplier_ci95: Bounds | None = Field(description="its 95 % interval")


class LadderTrend(StrictModel):
    """The effective speedup over all sizes, and whether it changes with the compute."""

    entry: str = Field(description=CURVE)
    against: str = Field(description="the baseline, named in the same way")
    compute_multiplier: Number | None = Field(
        description="mean of the logarithms over the sizes, weighted by precision"
    )
    compute_multiplier_ci95: Bounds | None = Field(description="its 95 % interval")
    time_multiplier: Number | None = Field(description="the same in training time")
    time_multiplier_ci95: Bounds | None = Field(description="its 95 % interval")
    change_per_decade: Number | None = Field(
        description="factor by which the compute multiplier changes with ten times the compute"
    )
    change_per_decade_ci95: Bounds | None = Field(description="its 95 % interval")
    margin: Number = Field(description="a factor below it, up or down, counts as constant")
    verdict: TrendVerdict | None = Field(
        description="`holds`: the interval of the change is within the margin; else `grows` or "
        "`shrinks` if it excludes 1; else `unresolved`; null without an interval"
    )


class LadderProjection(StrictModel):
    """The law of an entry at a larger budget. The interval is that of the loss of a new run."""

    entry: str = Field(description=CURVE)
    against: str | None = Field(description="the baseline; null for a baseline")
    flops: Number = Field(description="training FLOPs")
    times_largest: Number = Field(description="budget over the training FLOPs of the largest size")
    is_far: bool = Field(description="whether it is more than ten times the largest size")
    val_loss: Number = Field(description="predicted validation loss, nats per token")
    val_loss_ci95: Bounds | None = Field(description="its 95 % prediction interval")
    compute_multiplier: Number | None = Field(
        description=f"effective speedup there, from the laws of both; {NOT_REACHED}"
    )
    compute_multiplier_ci95: Bounds | None = Field(description="its 95 % interval")
    leave_out_error: Number | None = Field(
        description="error of predicting the largest size from the smaller ones, nats per token"
    )


class LadderCurvePoint(StrictModel):
    """A point of a fitted law, with the 95 % interval of the law."""

    entry: str = Field(description=CURVE)
    over: Scale = Field(description="x: training `flops`, `parameters` or training `tokens`")
    x: Number = Field(description="FLOPs, number of parameters, or tokens")
    val_loss: Number = Field(description="loss by the law, nats per token")
    val_loss_ci95: Bounds | None = Field(description="its 95 % interval")


class LadderExclusion(StrictModel):
    """An entry without a law, or without a speedup."""

    entry: str = Field(description=CURVE)
    reason: str = Field(description="why")


class Ladder(StrictModel):
    """Scaling laws over the sizes of an axis."""

    axis: str = Field(description="axis of the sizes")
    sizes: list[str] = Field(description="labels of the sizes, by training FLOPs")
    irreducible: Literal["shared", "per entry"] = Field(
        description="whether E is the same for all entries of a context, or fitted to each"
    )
    points: list[LadderPoint] = Field(description="losses at each size")
    fits: list[LadderFit] = Field(description="laws")
    speedups: list[LadderSpeedup] = Field(description="effective speedups by size")
    trends: list[LadderTrend] = Field(description="effective speedups over all sizes")
    projections: list[LadderProjection] = Field(description="laws at `project_to`")
    curves: list[LadderCurvePoint] = Field(description="points of the laws, for figures")
    unfitted: list[LadderExclusion] = Field(description="entries without a law")
    uncompared: list[LadderExclusion] = Field(
        description="entries with a law, but no speedup over the baseline"
    )
