"""Factorial analysis: the effect of each axis and the interactions of pairs of axes."""

import math
from collections.abc import Iterator

from harness.analysis.hypotheses import METRIC_NAMES
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Block, Heading, Section, paragraph, text
from harness.report.formatting import count
from harness.report.sections import Charts, chart_blocks
from harness.report.tables import Column, Record, display, number_column, text_column
from harness.results.records.study_summary import MetricTests, Quantity

MAX_MISSING = 6  # combinations without runs that are named
METHOD = (
    "The study is analyzed as a factorial design: a linear model with each seed as a block, an "
    "effect for each level of each axis and one for each pair of levels. A main effect is the mean "
    "change from the baseline's level, over all levels of the other axes. An interaction is the "
    "change that two levels cause together beyond the sum of their main effects. Interactions of "
    "three or more axes count as noise. Intervals are 95 %; p-values are corrected (Holm) over the "
    "main effects and over the interactions of each table. Losses are only those under the "
    "baseline's parallelism: other parallelisms repeat them, which would understate the noise."
)


def build(summary: Summary, charts: Charts) -> Section | None:
    """Return the main effects and interactions on each metric."""
    tested = {metric: tests for metric, tests in summary.metric_tests.items() if tests.main_effects}
    if len(summary.study.varying()) < 2 or not tested:
        return None
    blocks: list[Block] = [paragraph(METHOD)]
    for metric, tests in tested.items():
        blocks += _metric(summary, metric, tests)
        blocks += chart_blocks(charts, f"effects_{metric}")
    return Section("effects", "Effects", tuple(blocks))


def _metric(summary: Summary, metric: Quantity, tests: MetricTests) -> Iterator[Block]:
    name = METRIC_NAMES[metric].capitalize()
    unit = "nats per token" if metric == "val_loss" else "%"
    yield Heading(text(f"{name} ({unit})"))
    design = tests.design
    noise = ""
    if design.noise is not None:
        noise = f"; the noise of a run is {_change(design.noise, metric)}"
    yield paragraph(
        f"Estimated from {count(design.runs, 'run')} with {design.degrees_of_freedom} degrees of "
        f"freedom{noise}."
    )

    def change(row: Record) -> str:
        if row["estimate"] is None:
            return "not identifiable"
        shown = _signed_change(row["estimate"], metric)
        if row["estimate_low"] is None:
            return shown
        low = _signed_change(row["estimate_low"], metric)
        high = _signed_change(row["estimate_high"], metric)
        return f"{shown} [{low}, {high}]"

    effects = summary.tables["effects"]
    yield display(
        f"Effects on {METRIC_NAMES[metric]}",
        effects[effects["quantity"] == metric],
        [
            Column("effect", _levels, numeric=False),
            text_column("kind", "effect"),
            text_column("verdict", "verdict"),
            Column("change", change),
            number_column("p (Holm)", "p_holm", formatting.p_value),
        ],
    )
    if design.missing:
        cells = ", ".join(" × ".join(cell) for cell in design.missing[:MAX_MISSING])
        yield paragraph(f"No runs of {cells}. Effects that need them are not estimated.")


def _levels(row: Record) -> str:
    return " with ".join(level.replace("=", " ", 1) for level in row["levels"])


def _change(value: float, metric: Quantity) -> str:
    return f"{value:.4f}" if metric == "val_loss" else f"{100 * math.expm1(value):.2f} %"


def _signed_change(value: float, metric: Quantity) -> str:
    if metric == "val_loss":
        return formatting.signed(value)
    return f"{100 * math.expm1(value):+.2f} %"
