"""Scaling with size: effective speedups and their trend, fitted laws, projections."""

import math
from collections.abc import Iterator

from harness.analysis.ladder import FAR
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Block, Code, ItemList, Text, note, paragraph, text
from harness.report.formatting import MISSING, compute
from harness.report.sections import Charts, chart_blocks, reason_list
from harness.report.tables import (
    Column,
    Record,
    display,
    interval_column,
    interval_of,
    number_column,
    text_column,
)
from harness.results.records.estimates import Bounds
from harness.results.records.ladder import Ladder, LadderTrend

NOT_REACHED = "not reached"
LARGE = 1000  # factor above which only this is stated
METHOD = (
    "The effective speedup of an entry at a size is the compute that the baseline's fitted law "
    "needs to reach the entry's loss, divided by the compute that the entry used. Compute is the "
    "training FLOPs: FLOPs per token, which may differ between variants, times training tokens. "
    "Where an entry is better than the baseline's largest size, the law is extrapolated. "
    "The speedup in training time multiplies it by the ratio of the measured FLOP/s. The entry's "
    "loss is the baseline's law plus the difference on the seeds that both have, so that noise "
    "which a seed gives to both cancels. Intervals are 95 %, from a parametric bootstrap that "
    "resamples seeds as blocks and fits all laws again; they assume that the laws hold and that "
    "the noise is the same at all sizes."
)
LAW = (
    "The law of an entry is L = E + A / x^α, fitted with the Huber loss of log residuals (Hoffmann "
    "et al. 2022) to the mean loss over seeds at each size. {shared} The laws over parameters and "
    "tokens describe this ladder only, where both grow together. The largest size is also "
    "predicted from the smaller ones; the difference shows how far the law can be trusted beyond "
    "the sizes."
)
SHARED = "The irreducible loss E is the same for all entries of a context."
PER_ENTRY = "The irreducible loss E is fitted to each entry."


def build(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the effective speedups, laws and projections of a study with a ladder."""
    ladder = summary.ladder
    if ladder is None:
        return
    if ladder.trends:
        yield ItemList([sentence(ladder, trend) for trend in ladder.trends])
    if "ladder_speedups" in summary.tables:
        yield paragraph(METHOD)
        yield from chart_blocks(charts, "ladder_speedup")
        yield display("Effective speedup by size", summary.tables["ladder_speedups"], SPEEDUPS)
    if "ladder_trends" in summary.tables:
        margin = f"{ladder.trends[0].margin - 1:.0%}".replace("%", " %")
        yield paragraph(
            "The trend is the slope of the log speedup against log compute, weighted by precision "
            "as is the mean over sizes. A speedup ",
            Code("holds"),
            f" if the interval of its change over ten times the compute is within {margin}.",
        )
        yield display("Effective speedup over all sizes", summary.tables["ladder_trends"], TRENDS)
    shared = SHARED if ladder.irreducible == "shared" else PER_ENTRY
    yield paragraph(LAW.format(shared=shared))
    yield from chart_blocks(charts, "ladder_loss")
    yield display("Fitted laws", summary.tables["ladder_fits"], FITS)
    yield from reason_list((f"No law, {row.reason}", row.entry) for row in ladder.unfitted)
    yield from reason_list((f"No speedup, {row.reason}", row.entry) for row in ladder.uncompared)
    yield from _projections(summary, ladder, charts)


def _projections(summary: Summary, ladder: Ladder, charts: Charts) -> Iterator[Block]:
    if not ladder.projections:
        return
    first = ladder.projections[0]
    yield paragraph(
        f"At {compute(first.flops)} training FLOPs, {first.times_largest:,.3g} times the largest "
        "size, the laws predict these losses. The interval is that of the loss of one new run. It "
        "includes the uncertainty of the law's parameters and the noise of seeds, and assumes that "
        "the law holds up to there."
    )
    far = [row.entry for row in ladder.projections if row.is_far]
    if far:
        yield note(
            f"This is more than {FAR:.0f} times the largest size: no run tests the law there. "
            "The interval does not cover a change of the law."
        )
    yield from chart_blocks(charts, "ladder_projection")
    yield display("Projection", summary.tables["ladder_projections"], PROJECTIONS)


def sentence(ladder: Ladder, trend: LadderTrend) -> Text:
    """Return a sentence on an entry in the ladder: its speedup and whether it changes with size."""
    entry = Code(trend.entry)
    against = Code(trend.against)
    if trend.compute_multiplier is None:
        return text(entry, " has losses that the law of ", against, " never reaches.")
    parts: list[Text] = [_advantage(entry, against, trend)]
    ends = [row for row in ladder.speedups if row.entry == trend.entry]
    if trend.verdict in ("grows", "shrinks"):
        first, last = ends[0], ends[-1]
        shown = [_times(row.compute_multiplier) for row in (first, last)]
        start = text(f", from {shown[0]} at ", Code(first.size))
        parts.append(text(start, f" to {shown[1]} at ", Code(last.size)))
    if trend.time_multiplier is not None:
        in_time = _interval(trend.time_multiplier, trend.time_multiplier_ci95)
        parts.append(text(f". In training time, its speedup is {in_time}"))
    return text(*parts, ".")


def _advantage(entry: Code, against: Code, trend: LadderTrend) -> Text:
    value = trend.compute_multiplier or math.nan
    bounds = trend.compute_multiplier_ci95
    if bounds is None:
        return text(entry, f" has an effective speedup of {value:.3g} over ", against)
    low, high = bounds
    trends = {
        "grows": "grows with size",
        "shrinks": "shrinks with size",
        "holds": "holds over sizes",
    }
    if low > 1:
        reaches = text(
            entry,
            " reaches the loss of ",
            against,
            f" with {_times(value)} times less compute {_ends(bounds)}",
        )
        noun = "advantage"
    elif high < 1:
        inverse = f"{_times(1 / value)} times more compute {_ends((1 / high, 1 / low))}"
        reaches = text(entry, f" needs {inverse} for the loss of ", against)
        noun = "disadvantage"
        trends |= {"grows": "shrinks with size", "shrinks": "grows with size"}
    else:
        reaches = text(
            entry,
            " has no resolved speedup over ",
            against,
            f": {_times(value)} times less compute {_ends(bounds)} for the same loss",
        )
        noun = "speedup"
    if trend.verdict is None or trend.verdict == "unresolved":
        return text(reaches, f"; whether the {noun} depends on size is unresolved")
    return text(reaches, f"; the {noun} {trends[trend.verdict]}")


def _times(value: float | None) -> str:
    if value is None or math.isnan(value):
        return NOT_REACHED
    return f"{value:.2f}" if value < LARGE else f"> {LARGE:,}"


def _interval(value: float | None, bounds: Bounds | None) -> str:
    """Return 1.21 [1.10, 1.33]; an end that is not reached says so."""
    if value is None or math.isnan(value) or bounds is None:
        return _times(value)
    return f"{_times(value)} {_ends(bounds)}"


def _ends(bounds: Bounds) -> str:
    return f"[{_times(bounds[0])}, {_times(bounds[1])}]"


def _multiplier(title: str, name: str, missing: str = NOT_REACHED) -> Column:
    def cell(row: Record) -> str:
        value, low, high = interval_of(row, name)
        if value is None:
            return missing
        if low is None:
            return _times(value)
        return _interval(value, (low, math.nan if high is None else high))

    return Column(title, cell)


def _predicted(row: Record) -> str:
    if row["largest_predicted"] is None:
        return MISSING
    return formatting.interval(*interval_of(row, "largest_predicted"), formatting.fixed)


SPEEDUPS = [
    text_column("entry"),
    text_column("size"),
    text_column("baseline", "against"),
    number_column("training FLOPs", "flops", compute),
    number_column("loss difference", "val_loss_difference", formatting.signed),
    _multiplier("compute ×", "compute_multiplier"),
    _multiplier("training time ×", "time_multiplier", MISSING),
]
TRENDS = [
    text_column("entry"),
    text_column("baseline", "against"),
    _multiplier("compute ×", "compute_multiplier"),
    _multiplier("training time ×", "time_multiplier", MISSING),
    _multiplier("change per tenfold compute ×", "change_per_decade", MISSING),
    text_column("trend", "verdict"),
]
SCALES = {"flops": "training FLOPs", "parameters": "parameters", "tokens": "training tokens"}
FITS = [
    text_column("entry"),
    Column("x", lambda row: SCALES[row["over"]], numeric=False),
    number_column("sizes", "n_sizes"),
    interval_column("irreducible loss E", "irreducible", formatting.ratio),
    number_column("A", "coefficient", compute),
    interval_column("exponent α", "exponent", formatting.ratio),
    number_column("largest size, measured", "largest_measured", formatting.fixed),
    Column("predicted from the smaller sizes", _predicted),
    number_column("error", "leave_out_error", formatting.signed),
]
PROJECTIONS = [
    text_column("entry"),
    number_column("training FLOPs", "flops", compute),
    number_column("times the largest", "times_largest", formatting.significant_figures),
    interval_column("validation loss", "val_loss", formatting.fixed),
    _multiplier("compute ×", "compute_multiplier", MISSING),
    number_column("error at the largest size", "leave_out_error", formatting.signed),
]
